// The read-out under the picture.

import { part } from "./dom.js";

const HISTORY = 40; // chunks in the small curve

/** @param {number} bytes */
export function formatBytes(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB"];
  let value = bytes / 1024;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** @param {number} seconds */
export function formatSeconds(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

/** A sentence about the stream's size and cache. @param {import("./client/messages.js").SessionConfig} config as video.start says it */
export function cacheWords({ extra_params: { cache }, width, height }) {
  const latents = (/** @type {number} */ count) => `${Number(count.toFixed(2))} latent frame${count === 1 ? "" : "s"}`;
  const sinks = cache.sink_latents ? `, the first ${latents(cache.sink_latents)} always` : "";
  return `This stream: ${width} x ${height} pixels; cache policy ${cache.policy} with ${latents(cache.budget_latents)}${sinks}; ${cache.position_mode ?? "relative"} positions.`;
}

/** Fills the elements [data-stat=...] under `root` and draws the curve of chunk times. */
export class ReadOut {
  #cells;
  #curve;
  /** @type {number[]} seconds that it took to make a second of video, for the newest chunks */
  #chunks = [];
  #frames = { count: 0, at: 0 };

  /** @param {HTMLElement} root */
  constructor(root) {
    /** @type {NodeListOf<HTMLElement>} */
    const cells = root.querySelectorAll("[data-stat]");
    this.#cells = Object.fromEntries([...cells].map((cell) => [cell.dataset.stat, cell]));
    this.#curve = part(root, "[data-curve]");
  }

  clear() {
    this.#chunks = [];
    this.#frames = { count: 0, at: performance.now() };
    Object.values(this.#cells).forEach((cell) => (cell.textContent = "–"));
    this.#curve.setAttribute("points", "");
  }

  /** @param {number} seconds */
  firstPicture(seconds) {
    this.#set("first", formatSeconds(seconds));
  }

  /** Once a second: pictures shown so far, and the lead in seconds. @param {number} framesShown @param {number} lead */
  tick(framesShown, lead) {
    const now = performance.now();
    const fps = ((framesShown - this.#frames.count) * 1000) / Math.max(1, now - this.#frames.at);
    this.#frames = { count: framesShown, at: now };
    this.#set("fps", Math.max(0, fps).toFixed(1));
    this.#set("lead", formatSeconds(lead));
  }

  /**
   * Show the statistics of a chunk with `period` seconds of video.
   * @param {Partial<import("./client/messages.js").ServedStats>} stats
   * @param {number} period
   */
  chunk(stats, period) {
    if (stats.cache_tokens !== undefined) this.#set("tokens", stats.cache_tokens.toLocaleString("en"));
    if (stats.cache_bytes !== undefined) {
      const host = stats.cache_host_bytes ? ` + ${formatBytes(stats.cache_host_bytes)} host` : "";
      this.#set("bytes", formatBytes(stats.cache_bytes) + host);
    }
    if (stats.chunk_seconds === undefined) return;
    this.#set("chunk", formatSeconds(stats.chunk_seconds));
    this.#chunks = [...this.#chunks, stats.chunk_seconds / period].slice(-HISTORY);
    this.#draw();
  }

  // The full height is real time: a curve near the bottom means a machine with time to spare.
  #draw() {
    const points = this.#chunks.map((ratio, i) => `${(i * 100) / (HISTORY - 1)},${(22 - 20 * Math.min(1, ratio)).toFixed(1)}`);
    this.#curve.setAttribute("points", points.join(" "));
  }

  /** @param {string} name @param {string} text */
  #set(name, text) {
    const cell = this.#cells[name];
    if (cell && cell.textContent !== text) cell.textContent = text;
  }
}
