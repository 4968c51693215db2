// Pictures that were drawn, newest first: what was asked, and a thumbnail, kept in this browser.

import { find, make } from "./dom.js";

const STORE = "pyengine history";
const MOST = 48;
/** Pixels of a thumbnail's side: what is kept of a picture. */
const SIDE = 160;

/** Entries are {request, seed, model, thumbnail, alt}. again: called with a request. */
export class History {
  constructor(again) {
    this.again = again;
    this.entries = load();
    find("forget").addEventListener("click", () => {
      this.entries = [];
      this.changed();
      find("prompt").focus();
    });
    this.show();
  }

  async add(request, picture) {
    const { image, image_url: _, mask_image, prefix, original_image, ...kept } = request;
    const entry = {
      request: { ...kept, seed: picture.seed, n: undefined },
      // Pictures that went in are too large to be kept.
      partial: Boolean(image || mask_image || prefix || original_image),
      thumbnail: await thumbnail(picture.url),
      alt: picture.alt,
    };
    this.entries = [entry, ...this.entries].slice(0, MOST);
    this.changed();
  }

  changed() {
    try {
      localStorage.setItem(STORE, JSON.stringify(this.entries));
    } catch { /* no room, or not allowed: it lasts as long as the page */ }
    this.show();
  }

  show() {
    find("past").hidden = !this.entries.length;
    find("history").replaceChildren(...this.entries.map((entry) => this.row(entry)));
  }

  row(entry) {
    const { request } = entry;
    const again = make("button", { type: "button", textContent: "Again with this seed" });
    again.addEventListener("click", () => this.again(request, entry.partial));
    const about = [request.model, `seed ${request.seed}`, request.scheduler].filter(Boolean);
    return make("li", {},
      make("img", { src: entry.thumbnail, alt: entry.alt }),
      make("div", {},
        make("p", { class: "what", textContent: request.prompt || request.model }),
        make("p", { class: "hint", textContent: about.join(" · ") }),
        again));
  }
}

/** What an earlier visit has left; it may be anything. */
function load() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return found.filter((e) => e?.request && /^data:image\//.test(e.thumbnail)).slice(0, MOST);
  } catch {
    return [];
  }
}

async function thumbnail(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const scale = Math.min(1, SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  if (scale === 1) return url;
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(image.naturalWidth * scale)),
    height: Math.max(1, Math.round(image.naturalHeight * scale)),
  });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/webp", 0.85);
}
