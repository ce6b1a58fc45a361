// The memory view: which tokens of the shown video the cache still holds.
//
// Every moment (latent frame) with cached tokens is a picture in a filmstrip, divided into tiles, one per token. A kept
// tile has its colors, and a golden edge whose brightness shows its salience; a dropped tile flashes and then stays gray.
// On demand the same edges are drawn over the playing picture. The data are the chunks' `stats.memory` and the video
// itself.

import { brush, offscreen, part } from "./dom.js";
import { GAP, LABEL, density, drawGlow, drawLabel, drawMoment, drawVeil, fit, tiles } from "./film.js";
import { endOf, heldTokens, inWords, latentAt, lostBetween, moments, readMemory, share, stillKnown } from "./moments.js";
import { Thumbs } from "./thumbs.js";

const TILE_HEIGHT = 84; // pixels of a moment on the filmstrip
const NOW = 0.3; // seconds: a moment this new is on display
const FADE_MS = 1200; // how long a dropped token glows
const CAPTURE_MS = 40;
const PRESS_PLAY = "Press Play to see what it remembers.";

/** `button` shows `section`, which contains the filmstrip and the texts; `veil` is a canvas over the playing `video`. */
export class MemoryView {
  #video;
  #button;
  #section;
  #veil;
  #film;
  #thumbs;
  #on = false;
  /** @type {import("./client/messages.js").MemoryShape | null} from video.start */
  #config = null;
  #fps = 16;
  #grid = { rows: 0, columns: 0 };
  /** @type {import("./moments.js").Memory} */
  #memory = new Map();
  /** @type {Map<number, {cells: Float32Array, at: number}>} the lost tokens of each latent, and when */
  #dropped = new Map();
  #seen = -1; // newest generated latent
  /** @type {Map<number, string>} latent -> the camera's position at rest; missing while it moved */
  #views = new Map();
  /** @type {number | null} latent that the veil shows now */
  #veiled = null;
  /** @type {OffscreenCanvas | null} the filmstrip without glowing tiles */
  #still = null;
  /** @type {import("./client/messages.js").ServedStats | null} of the newest chunk */
  #stats = null;
  /** @type {import("./film.js").Placed[]} moments on the filmstrip */
  #places = [];
  /** @type {{offsetX: number, offsetY: number} | null} over the filmstrip */
  #pointer = null;
  #timer = 0;
  #frame = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  /** @param {{button: HTMLButtonElement, section: HTMLElement, video: HTMLVideoElement, veil: HTMLCanvasElement}} _ */
  constructor({ button, section, video, veil }) {
    this.#button = button;
    this.#section = section;
    this.#video = video;
    this.#veil = veil;
    this.#film = /** @type {HTMLCanvasElement} */ (part(section, "canvas"));
    this.#thumbs = new Thumbs(video);
    button.addEventListener("click", () => this.toggle());
    this.#part("veil-toggle").addEventListener("click", () => this.#toggleVeil());
    this.#film.addEventListener("pointermove", ({ offsetX, offsetY }) => this.#point({ offsetX, offsetY }));
    this.#film.addEventListener("pointerleave", () => this.#point(null));
    addEventListener("resize", () => this.#redraw());
    document.addEventListener("fullscreenchange", () => this.#redraw());
  }

  /** @param {string} name */
  #part(name) {
    return part(this.#section, `.${name}`);
  }

  /** A new stream: `config` is video.start's. @param {import("./client/messages.js").SessionConfig} config */
  begin(config) {
    this.end();
    this.#config = config.memory ?? null;
    this.#fps = config.fps;
    this.#memory = new Map();
    this.#dropped.clear();
    this.#thumbs.clear();
    this.#views.clear();
    this.#seen = -1;
    this.#veiled = null;
    this.#button.disabled = !this.#config;
    this.#timer = setInterval(() => this.#capture(), CAPTURE_MS);
    this.#redraw();
  }

  /** The stream has ended; the last state stays. */
  end() {
    clearInterval(this.#timer);
  }

  /** Statistics of a chunk. @param {import("./client/messages.js").ServedStats} stats */
  chunk(stats) {
    if (!stats.memory || !this.#config) return;
    const before = this.#memory;
    this.#grid = { rows: stats.memory.rows, columns: stats.memory.columns };
    this.#memory = readMemory(stats.memory);
    this.#stats = stats;
    this.#noteMade(stats.camera);
    for (const [latent, cells] of lostBetween(before, this.#memory)) this.#dropped.set(latent, { cells, at: performance.now() });
    this.#forget();
    this.#redraw();
  }

  toggle() {
    if (this.#button.disabled) return;
    this.#on = !this.#on;
    this.#button.setAttribute("aria-pressed", String(this.#on));
    this.#section.hidden = !this.#on;
    document.body.classList.toggle("remembering", this.#on);
    this.#redraw();
  }

  #toggleVeil() {
    const on = document.body.classList.toggle("veiled");
    this.#part("veil-toggle").setAttribute("aria-pressed", String(on));
    this.#veiled = null;
  }

  // ---- events

  /** @param {import("./client/messages.js").CameraView} camera */
  #noteMade(camera) {
    for (const latent of this.#memory.keys()) {
      if (latent > this.#seen && camera.speed === 0) this.#views.set(latent, `at ${camera.offset}`);
    }
    this.#seen = Math.max(this.#seen, ...this.#memory.keys());
  }

  #forget() {
    const now = performance.now();
    for (const [latent, { at }] of this.#dropped) if (now - at > FADE_MS) this.#dropped.delete(latent);
    this.#thumbs.sweep(this.#playing(), (latent) => this.#memory.has(latent) || this.#dropped.has(latent));
  }

  #playing() {
    return this.#config ? latentAt(this.#video.currentTime, this.#config, this.#fps) : -1;
  }

  /** Seconds since the end of latent frame `latent` was on display. @param {number} latent */
  #age(latent) {
    return this.#config ? this.#video.currentTime - endOf(latent, this.#config, this.#fps) : 0;
  }

  #capture() {
    if (document.hidden || !this.#config || this.#video.readyState < 2) return;
    const latent = this.#playing();
    this.#thumbs.take(latent, this.#config, this.#fps);
    if (!this.#on || this.#veiled === latent) return;
    this.#veiled = latent;
    drawVeil(this.#veil, this.#memory.get(latent), this.#grid);
  }

  // ---- drawing

  #redraw() {
    cancelAnimationFrame(this.#frame);
    this.#veiled = null;
    if (!this.#on) return;
    this.#drawFilm();
    this.#describe();
    this.#animate();
  }

  // Only glowing tiles are redrawn; the strip below them stays the same until the next chunk.
  #animate() {
    this.#forget();
    const context = brush(this.#film);
    context.clearRect(0, 0, this.#film.width, this.#film.height);
    if (this.#still?.width && this.#still.height) context.drawImage(this.#still, 0, 0);
    if (this.#calm.matches || !this.#dropped.size) return;
    for (const place of this.#places) {
      for (const latent of place.latents) {
        const lost = this.#dropped.get(latent);
        if (lost) drawGlow(context, lost.cells, 1 - (performance.now() - lost.at) / FADE_MS, place, this.#grid);
      }
    }
    this.#frame = requestAnimationFrame(() => this.#animate());
  }

  #drawFilm() {
    this.#places = this.#layOut();
    const { canvas, context } = offscreen(this.#film.width, this.#film.height);
    this.#still = canvas;
    const { color: colour } = getComputedStyle(this.#film);
    for (const place of this.#places) {
      drawMoment(context, this.#thumbs.near(place.latent), place, this.#grid);
      drawLabel(context, place, this.#when(place), `${Math.round(100 * share(place))} %`, colour);
    }
    this.#film.dataset.moments = String(this.#places.length);
  }

  /** @param {import("./film.js").Placed} place */
  #when({ latent }) {
    const seconds = this.#age(latent);
    if (seconds < NOW && latent === this.#places.at(-1)?.latent) return "now";
    return `${Math.max(0, seconds).toFixed(seconds < 9.95 ? 1 : 0)} s ago`;
  }

  /** The moments with their places on the filmstrip, in one row, oldest first. Resizes the canvas. */
  #layOut() {
    const { clientWidth } = this.#film;
    const aspect = this.#video.videoWidth / this.#video.videoHeight || 2;
    const { across, wide } = tiles(clientWidth, TILE_HEIGHT * aspect);
    const seen = new Map([...this.#memory].filter(([latent]) => latent <= this.#playing()));
    const shown = moments(seen, across, (latent) => this.#views.get(latent) ?? latent);
    const high = wide / aspect + LABEL;
    this.#film.style.height = `${high}px`;
    fit(this.#film, clientWidth, high);
    const scale = density();
    return shown.map((moment, place) => ({
      ...moment,
      x: place * (wide + GAP) * scale,
      y: 0,
      width: wide * scale,
      height: (wide / aspect) * scale,
    }));
  }

  #describe() {
    if (!this.#on) return;
    const total = (this.#seen + 1) * (this.#config?.tokens_per_latent ?? 0);
    if (!this.#stats || !this.#places.length || !total) return this.#write(this.#nothingYet(), "", 0);
    const perLatent = this.#config?.tokens_per_latent ?? 0;
    const kept = this.#stats.cache_host_bytes ? heldTokens(this.#memory, perLatent) : this.#stats.cache_tokens;
    const percent = Math.min(100, Math.round((100 * kept) / Math.max(kept, total)));
    const words = inWords(this.#memory, this.#grid.rows, this.#grid.columns, percent);
    this.#part("memory-legend").classList.toggle("scored", this.#places.some(({ salience }) => salience));
    this.#write(words, this.#pointedAt() ?? this.#figures(this.#stats, kept, Math.max(kept, total), percent), percent);
  }

  #nothingYet() {
    return this.#config === null && this.#seen < 0 ? PRESS_PLAY : "Nothing to remember yet.";
  }

  /** @param {string} words @param {string} detail @param {number} percent */
  #write(words, detail, percent) {
    this.#part("memory-words").textContent = words;
    this.#part("memory-detail").textContent = detail;
    /** @type {HTMLElement} */ (this.#part("memory-bar").firstElementChild).style.width = `${percent}%`;
    this.#film.setAttribute("aria-label", `${words} ${detail}`);
  }

  /** @param {import("./client/messages.js").ServedStats} stats @param {number} kept @param {number} total @param {number} percent */
  #figures({ cache_tokens: device, cache_host_bytes: host, cache_policy: policy, cache_fell_back: fell }, kept, total, percent) {
    const known = stillKnown(this.#memory).map(([latent]) => latent);
    const tokens = `${kept.toLocaleString("en")} of ${total.toLocaleString("en")} tokens (${percent}\u00a0%)`;
    const where = host ? `, ${device.toLocaleString("en")} of them on the device` : "";
    const count = `${known.length} ${known.length === 1 ? "moment" : "moments"}`;
    const reach = `the oldest from ${Math.max(0, Math.round(this.#age(known[0])))} s ago`;
    return `${tokens}${where}: ${count}, ${reach}. Policy ${policy}${fell ? ", the fallback, because scores were not finite" : ""}.`;
  }

  /** @param {{offsetX: number, offsetY: number} | null} pointer */
  #point(pointer) {
    this.#pointer = pointer;
    this.#describe();
  }

  /** A sentence about the moment under the pointer, if there is one. */
  #pointedAt() {
    if (!this.#pointer) return null;
    const [px, py] = [this.#pointer.offsetX * density(), this.#pointer.offsetY * density()];
    const hit = this.#places.find(({ x, y, width, height }) => px >= x && px < x + width && py >= y && py < y + height);
    if (!hit) return null;
    return `${Math.max(0, this.#age(hit.latent)).toFixed(1)} s ago: ${Math.round(100 * share(hit))} % of this moment is kept.`;
  }
}
