// The pictures that are being drawn, and have been: one group a request, side by side for two.

import { find, make } from "./dom.js";

/** Pictures of at most so many pixels a side are shown larger, pixel by pixel. */
const SMALL = 128;

/** The view of one request's pictures. */
class Group {
  constructor(request, size, title) {
    this.request = request;
    this.figures = Array.from({ length: request.n ?? 1 }, () => {
      const frame = make("div", { class: "frame drawing" });
      const caption = make("figcaption");
      return { frame, caption, element: make("figure", {}, frame, caption) };
    });
    for (const { element } of this.figures) shape(element, ...size);
    this.element = make("div", {}, title && make("h3", { textContent: title }),
      make("div", { class: "pictures" }, ...this.figures.map((figure) => figure.element)));
  }

  /** Pictures on the way. images: base64 of PNG. */
  preview(images, step, steps) {
    images.forEach((data, i) => {
      const name = this.request.prompt || this.request.model;
      this.put(i, `data:image/png;base64,${data}`, `Preview of ${name}, step ${step} of ${steps}`);
      this.figures[i].caption.textContent = `step ${step} of ${steps}`;
    });
  }

  /** The pictures. Returns [{url, alt, seed}]. */
  done(result) {
    return result.data.map((item, i) => {
      const url = `data:image/${result.output_format};base64,${item.b64_json}`;
      const alt = `${this.request.prompt || this.request.model}, seed ${item.seed}`;
      this.put(i, url, alt);
      const { frame, caption } = this.figures[i];
      frame.classList.remove("drawing");
      const save = make("a", {
        href: url, download: `${fileName(this.request.prompt)}-${item.seed}.png`,
        textContent: "Save",
      });
      caption.replaceChildren(make("span", { textContent: `seed ${item.seed}` }), save);
      return { url, alt, seed: item.seed };
    });
  }

  /** There will be no more pictures. */
  stop() {
    for (const { frame } of this.figures) frame.classList.remove("drawing");
  }

  put(i, url, alt) {
    const { frame, element } = this.figures[i];
    let image = frame.querySelector("img");
    if (!image) {
      image = make("img");
      image.addEventListener("load", () => {
        image.classList.toggle("small", image.naturalWidth <= SMALL);
        shape(element, image.naturalWidth, image.naturalHeight);
      });
      frame.append(image);
    }
    image.alt = alt;
    image.src = url;
  }
}

/** Sizes of a figure: small pictures are shown at whole multiples of their size. */
function shape(element, width, height) {
  element.querySelector(".frame").style.setProperty("--shape", `${width} / ${height}`);
  const times = width <= SMALL ? Math.max(1, Math.floor(384 / width)) : 1;
  element.style.setProperty("--shown", `${width * times}px`);
}

function fileName(text) {
  return (text ?? "").toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40) || "picture";
}

/** Shows frames for the requests. titles: of two that are compared. Returns their groups. */
export function showRuns(requests, sizes, titles) {
  const groups = requests.map((request, i) => new Group(request, sizes[i], titles[i]));
  const runs = make("div", { class: requests.length > 1 ? "runs two" : "runs" },
    ...groups.map((group) => group.element));
  find("stage").replaceChildren(runs);
  return groups;
}
