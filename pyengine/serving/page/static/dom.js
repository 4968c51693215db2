// Elements, and pictures as base64. Texts are set as texts, never as HTML.

/** An element with properties and children; `class`, `for`, `data-*` and `aria-*` are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (/^(class|for|role|form)$|-/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function find(id) {
  return document.getElementById(id);
}

/** A file's bytes as a data: URL. */
export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

/** A number as people write it: 0.30000000000000004 is 0.3. */
export function tidy(number) {
  return String(Number(Number(number).toPrecision(12)));
}

export function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}
