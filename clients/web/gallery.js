// Starting points: a prompt and a seed, with an animated thumbnail as soon as the server has generated it.

import { byId } from "./dom.js";
import { gallery, picture } from "./server.js";

const AGAIN_MS = 15_000; // between requests for missing thumbnails
const LOOKS = 40; // requests at most, in case the server never has them

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

  /** Offer these prompts until the server's gallery is known. @param {string[]} prompts */
  offer(prompts) {
    if (!this.#points.some(({ loop }) => loop)) this.#points = prompts.map((prompt) => ({ prompt }));
    this.#show();
  }

  /** Ask the server, and ask again later while thumbnails are missing. */
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

/** The first picture of an animation, for viewers who prefer reduced motion. @param {HTMLImageElement} image */
function frozen(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d")?.drawImage(image, 0, 0);
  return canvas;
}
