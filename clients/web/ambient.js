// Colors the background of the page from the picture.

import { brush } from "./dom.js";

const COLUMNS = 10;
const ROWS = 7;
const SOFTER = 12; // the small copy is smoothly enlarged by this factor before the page stretches it
const EVERY_MS = 250;
const SATURATE = 1.5;
const BLEND = 0.12; // share of the new picture per step: slow enough not to flicker

/**
 * Paints a tiny, slowly mixed copy of `video` into `canvas`; enlarging makes it soft without a blur filter. For viewers who
 * prefer reduced motion, it keeps the colors of the first picture.
 */
export class Ambient {
  #tiny;
  #soft;
  #video;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");
  #timer = 0;
  #fresh = true;

  /** @param {HTMLCanvasElement} canvas @param {HTMLVideoElement} video */
  constructor(canvas, video) {
    this.#tiny = sized(document.createElement("canvas"), COLUMNS, ROWS);
    this.#soft = sized(canvas, COLUMNS * SOFTER, ROWS * SOFTER);
    this.#soft.imageSmoothingQuality = "high";
    this.#tiny.filter = `saturate(${SATURATE})`; // without support, the background is only paler
    this.#video = video;
  }

  start() {
    this.stop();
    this.#fresh = true;
    this.#timer = setInterval(() => this.#paint(), EVERY_MS);
  }

  stop() {
    clearInterval(this.#timer);
  }

  #paint() {
    if (document.hidden || this.#video.readyState < 2 || (this.#calm.matches && !this.#fresh)) return;
    this.#tiny.globalAlpha = this.#fresh ? 1 : BLEND;
    this.#fresh = false;
    this.#tiny.drawImage(this.#video, 0, 0, COLUMNS, ROWS);
    this.#soft.drawImage(this.#tiny.canvas, 0, 0, this.#soft.canvas.width, this.#soft.canvas.height);
  }
}

/** @param {HTMLCanvasElement} canvas @param {number} width @param {number} height */
function sized(canvas, width, height) {
  Object.assign(canvas, { width, height });
  return brush(canvas);
}
