// Starting points: words and a seed to begin with, each with a moving thumbnail as soon as the server has painted it.

import { byId } from "./dom.js";
import { gallery, picture } from "./server.js";

const AGAIN_MS = 15_000; // between looks for thumbnails that are still missing
const LOOKS = 40; // a server that paints none is not asked for ever

/** @typedef {{prompt: string, seed?: number, loop?: string | null}} StartingPoint */

export class Gallery {
  #root = byId("examples");
  #chosen;
  #still = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {StartingPoint[]} */
  #points = [];
  /** @type {Map<string, HTMLImageElement>} by path */
  #pictures = new Map();
  #looks = 0;

  /** @param {(point: StartingPoint) => void} chosen */
  constructor(chosen) {
    this.#chosen = chosen;
    this.#still.addEventListener("change", () => this.#show());
  }

  /** Offer these words, until the server has told of its gallery. @param {string[]} prompts */
  offer(prompts) {
    if (!this.#points.some(({ loop }) => loop)) this.#points = prompts.map((prompt) => ({ prompt }));
    this.#show();
  }

  /** Ask the server; and again later, as long as it has not painted all. */
  async look() {
    const points = await gallery();
    if (points.length) this.#points = points;
    await Promise.all(points.map(({ loop }) => loop && this.#load(loop)));
    this.#show();
    if (points.some(({ loop }) => !loop) && ++this.#looks < LOOKS) setTimeout(() => this.look(), AGAIN_MS);
  }

  /** @param {string} path */
  async #load(path) {
    if (this.#pictures.has(path)) return;
    const image = new Image();
    image.alt = "";
    image.src = URL.createObjectURL(await picture(path));
    await image.decode();
    this.#pictures.set(path, image);
  }

  #show() {
    const held = document.activeElement?.closest("#examples button")?.textContent;
    this.#root.replaceChildren(...this.#points.map((point) => this.#button(point)));
    for (const button of this.#root.querySelectorAll("button")) if (button.textContent === held) button.focus();
  }

  /** @param {StartingPoint} point */
  #button(point) {
    const button = document.createElement("button");
    const image = point.loop ? this.#pictures.get(point.loop) : undefined;
    Object.assign(button, { type: "button", className: image ? "chip scene" : "chip" });
    if (image) button.append(this.#still.matches ? frozen(image) : image);
    button.append(Object.assign(document.createElement("span"), { textContent: point.prompt }));
    button.addEventListener("click", () => this.#chosen(point));
    return button;
  }
}

/** The first picture of an animation, for people who want nothing to move. @param {HTMLImageElement} image */
function frozen(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d")?.drawImage(image, 0, 0);
  return canvas;
}
