// The inputs of a model, from what the server says of its arguments. What is left alone is not sent:
// the model's own value is used, which placeholders and sliders show.

import { dataUrl, find, make, tidy } from "./dom.js";

/** Inputs by argument, and what was said in them, kept when another model is chosen. */
export class Form {
  constructor() {
    this.inputs = new Map();
    this.said = new Map();
    this.more = [];
    find("more").addEventListener("toggle", () => this.showMore());
  }

  /** Shows the inputs of a model. limits: the server's. */
  build(model, limits) {
    for (const [name, input] of this.inputs) this.said.set(name, input.value);
    this.inputs.clear();
    this.model = model;
    this.more = [];
    find("main-inputs").replaceChildren();
    const count = { name: "n", label: "Pictures", kind: "whole", low: 1, high: limits.pictures,
                    default: 1, main: true, bare: true };
    for (const row of ordered([...model.inputs, count])) {
      const input = kinds[row.kind](row, limits);
      this.inputs.set(row.name, input);
      if (row.main) find("main-inputs").append(input.element);
      else this.more.push(input.element);
      if (this.said.has(row.name)) input.value = this.said.get(row.name);
    }
    find("more").hidden = !this.more.length;
    this.showMore();
    find("prompt").disabled = !model.prompt;
    find("prompt").maxLength = limits.prompt;
    this.buildCompare(model);
  }

  /** Inputs that are folded away are not in the page: nothing finds or checks them there. */
  showMore() {
    find("more-inputs").replaceChildren(...(find("more").open ? this.more : []));
  }

  /** What the request says: arguments by name. */
  request() {
    const found = { model: this.model.name };
    if (this.model.prompt) found.prompt = find("prompt").value;
    for (const [name, input] of this.inputs) {
      if (input.value !== null) found[name] = input.value;
    }
    return found;
  }

  /** Says what a request says, and leaves the rest alone. */
  show(request) {
    if (request.prompt !== undefined) find("prompt").value = request.prompt;
    for (const [name, input] of this.inputs) input.value = request[name] ?? null;
  }

  // --- comparing ---------------------------------------------------------------------------------

  buildCompare(model) {
    const place = find("compare");
    const sampler = model.inputs.find((row) => row.name === "scheduler");
    const before = this.choice?.value;
    const options = [["", "Nothing"], ["seed", "Another seed"]];
    if (sampler) options.push(["scheduler", "Another sampler"]);
    this.choice = make("select", { id: "compare-with" },
      ...options.map(([value, text]) => make("option", { value, textContent: text })));
    place.replaceChildren(make("div", { class: "field" },
      make("label", { for: "compare-with", textContent: "Compare with" }), this.choice));
    this.choice.addEventListener("change", () => this.showOther(sampler));
    if (options.some(([value]) => value === before)) this.choice.value = before;
    this.showOther(sampler);
  }

  showOther(sampler) {
    const place = find("compare");
    place.querySelector(".other")?.remove();
    this.other = null;
    if (!this.choice.value) return;
    const seed = this.inputs.get("seed").row;
    this.other = this.choice.value === "seed"
      ? kinds.whole({ ...seed, name: "other-seed", label: "Second seed", help: "" })
      : kinds.choice({ ...sampler, name: "other-sampler", label: "Second sampler", main: false, help: "" });
    this.other.element.classList.add("other");
    place.append(this.other.element);
  }

  /** The requests to draw: one, or two that differ in a seed or a sampler alone. */
  requests() {
    const first = this.request();
    if (!this.choice.value) return [first];
    first.seed ??= randomSeed();
    const value = this.other.value;
    if (this.choice.value === "seed") {
      return [first, { ...first, seed: value ?? randomSeed() }];
    }
    const second = { ...first, scheduler: value ?? undefined };
    return [first, second];
  }
}

/** A seed as the server draws them. */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/** Texts, numbers with sliders, choices, other numbers, files: what is alike stands together. */
function ordered(rows) {
  const kinds = ["text", "slider", "choice", "whole", "real", "picture"];
  const place = (row) => kinds.indexOf(ends(row) ? "slider" : row.kind);
  return [...rows].sort((a, b) => place(a) - place(b));
}

/** From what to what a number's slider goes; null: it has none. */
function ends(row) {
  if (!["whole", "real"].includes(row.kind) || row.bare) return null;
  return row.usual ?? (row.high <= 100 ? [row.low, row.high] : null);
}

// --- inputs: {row, element, value}; value null: left alone ------------------------------------------

const kinds = {
  whole: (row) => number(row, 1),
  real: (row) => number(row, ((row.usual ?? [row.low, row.high])[1] > 2 ? 0.1 : 0.01)),
  choice,
  text,
  picture,
};

function field(row, control, ...more) {
  const label = make("label", { for: control.id, textContent: row.label });
  const hint = row.help && !row.main
    ? make("p", { class: "hint", id: `${control.id}-help`, textContent: row.help }) : null;
  if (hint) control.setAttribute("aria-describedby", hint.id);
  return make("div", { class: "field", title: row.help ?? "" }, label, control, ...more, hint);
}

/** A number, exact by keyboard, and a slider beside it for the pointer. */
function number(row, step) {
  const box = make("input", {
    id: `input-${row.name}`, type: "number", min: row.low, max: row.high, inputMode: "decimal",
    step: row.kind === "whole" ? 1 : "any", autocomplete: "off",
    placeholder: row.default === null || row.default === undefined
      ? (row.name.endsWith("seed") ? "random" : "auto") : tidy(row.default),
  });
  const between = ends(row);
  const slider = between && make("input", {
    type: "range", min: between[0], max: between[1], step, tabIndex: -1, "aria-hidden": "true",
  });
  const follow = () => { if (slider) slider.value = box.value || (row.default ?? between[0]); };
  follow();
  box.addEventListener("input", follow);
  slider?.addEventListener("input", () => { box.value = tidy(slider.value); });
  const element = field(row, box, slider);
  element.classList.add("number", ...(slider ? [] : ["long"]));
  return {
    row,
    element,
    get value() { return box.value === "" ? null : Number(box.value); },
    set value(value) { box.value = value === null ? "" : tidy(value); follow(); },
  };
}

function choice(row) {
  const own = row.default ? `the model's (${row.default})` : "the model's";
  const box = make("select", { id: `input-${row.name}` },
    make("option", { value: "", textContent: own }),
    ...row.choices.map((name) => make("option", { value: name, textContent: name })));
  const element = field(row, box);
  if (row.main && row.name === "scheduler") element.classList.add("wide");
  return {
    row,
    element,
    get value() { return box.value || null; },
    set value(value) {
      if (value && !row.choices.includes(value)) {
        box.append(make("option", { value, textContent: value }));
      }
      box.value = value ?? "";
    },
  };
}

function text(row) {
  const box = make("textarea", { id: `input-${row.name}`, rows: 1, autocomplete: "off" });
  const element = field(row, box);
  element.classList.add("wide");
  return {
    row,
    element,
    get value() { return box.value || null; },
    set value(value) { box.value = value ?? ""; },
  };
}

/** A picture that goes in, and what it looks like. */
function picture(row, limits) {
  const box = make("input", { id: `input-${row.name}`, type: "file", accept: "image/*" });
  const shown = make("div", { class: "given" });
  let url = null;
  const show = (name) => {
    shown.replaceChildren();
    if (!url) return;
    const away = make("button", { type: "button", class: "quiet", textContent: "Take away" });
    away.addEventListener("click", () => { input.value = null; box.focus(); });
    shown.append(make("img", { src: url, alt: `${row.label}: ${name}` }), away);
  };
  box.addEventListener("change", async () => {
    const [file] = box.files;
    const fits = !file || file.size <= limits.file;
    box.setCustomValidity(fits ? "" : `At most ${Math.floor(limits.file / 2 ** 20)} MB.`);
    box.reportValidity();
    url = file && fits ? await dataUrl(file) : null;
    show(file?.name);
  });
  const element = field(row, box, shown);
  element.classList.add("wide");
  const input = {
    row,
    element,
    get value() { return url; },
    set value(value) {
      url = value;
      if (!value) box.value = "";
      show("as before");
    },
  };
  return input;
}
