// The memory view: what the model still knows of what it has shown.
//
// Every moment that the cache still holds becomes a picture in a filmstrip; where its tokens are kept the picture stays
// lit, the more golden the more salient, and where they were dropped it sinks into the dark. The same light lies over
// the picture that is playing. All of it comes from `stats.memory` of the chunks and from the video itself.

const THUMB_HEIGHT = 88; // pixels of a stored picture
const MOST_MOMENTS = 18; // shown at once; those that hold most are chosen
const ACROSS = 9; // moments in a row of the filmstrip
const NEAR = 3; // a moment whose picture was skipped by the player borrows one that is so near
const SHOWN_FROM = 0.02; // share of a moment's tokens below which it is as good as forgotten
const FADE_MS = 900; // how long a dropped token glows before it is dark
const CAPTURE_MS = 40;
const INK = [15, 17, 30];
const GOLD = [255, 214, 130];
const ROSE = [240, 106, 122];

/** Bytes of a base64 text. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * One chunk's memory: a Map from latent index to {kept, salience}, both Uint8Array of rows x columns.
 * `salience` is null under a policy without scores.
 */
export function readMemory({ rows, columns, latents, kept, salience }) {
  const cells = rows * columns;
  const [all, scores] = [bytesOf(kept), bytesOf(salience)];
  const part = (bytes, place) => (bytes.length ? bytes.subarray(place * cells, (place + 1) * cells) : null);
  return new Map(latents.map((latent, place) => [latent, { kept: part(all, place), salience: part(scores, place) }]));
}

/** Share of a moment's tokens that are kept. */
export function share(moment) {
  return moment.kept.reduce((sum, value) => sum + value, 0) / (255 * moment.kept.length);
}

/** Latents to show, in time order: of those that still hold something, the ones that hold most. */
export function chosen(memory, most = MOST_MOMENTS) {
  const holding = [...memory].filter(([, moment]) => share(moment) >= SHOWN_FROM);
  const best = holding.sort(([, a], [, b]) => share(b) - share(a)).slice(0, most);
  return best.map(([latent]) => latent).sort((a, b) => a - b);
}

/** Seconds of media time at which latent frame `latent` ends. */
export function endOf(latent, { pictures_per_latent: each, first_latent_pictures: first }, fps) {
  return (first + latent * each) / fps;
}

/** A small canvas of `rows` x `columns` pixels, each (r, g, b, alpha) by `paint(place)`; enlarging it makes soft light. */
function grid(rows, columns, paint) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let place = 0; place < rows * columns; place++) image.data.set(paint(place), 4 * place);
  context.putImageData(image, 0, 0);
  return canvas;
}

const tint = ([r, g, b], alpha) => [r, g, b, Math.round(255 * Math.max(0, Math.min(1, alpha)))];

/**
 * The toggle, the veil over the picture and the filmstrip. `tools` gets the toggle, `stage` the veil, `place` is the
 * element that the filmstrip stands after; `video` is the playing picture.
 */
export class MemoryView {
  #video;
  #button;
  #veil;
  #section;
  #film;
  #words;
  #detail;
  #on = false;
  #config = null;
  #fps = 16;
  #rows = 0;
  #columns = 0;
  #memory = new Map();
  #dropped = new Map(); // latent -> {cells: Float32Array of what was lost, at: time of the loss}
  #thumbs = new Map(); // latent -> canvas
  #seen = 0; // latents that were made so far
  #stats = {};
  #pointer = null; // where it stands over the filmstrip
  #timer = 0;
  #frame = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  constructor({ tools, stage, place, video }) {
    this.#video = video;
    this.#button = element("button", { type: "button", id: "memory-toggle", ariaPressed: "false", textContent: "Show its memory" });
    const group = element("div", { className: "tool" }, [
      element("span", { className: "tool-name", textContent: "Memory", ariaHidden: "true" }),
      element("div", { className: "chips" }, [this.#button]),
    ]);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Memory");
    tools.append(group);
    this.#veil = element("canvas", { className: "memory-veil", ariaHidden: "true" });
    stage.querySelector("video").after(this.#veil);
    this.#film = element("canvas", { id: "memory-film" });
    this.#film.setAttribute("role", "img");
    this.#words = element("p", { className: "memory-words" });
    this.#detail = element("p", { className: "memory-detail" });
    const legend = element("ul", { className: "memory-legend" }, [
      element("li", { className: "gold", textContent: "kept, and salient" }),
      element("li", { className: "plain", textContent: "kept" }),
      element("li", { className: "rose", textContent: "just dropped" }),
      element("li", { className: "ink", textContent: "forgotten" }),
    ]);
    this.#section = element("section", { className: "memory", id: "memory", hidden: true, ariaLabel: "What it remembers" }, [
      element("div", { className: "memory-head" }, [this.#words, legend]),
      this.#film,
      this.#detail,
    ]);
    place.after(this.#section);
    this.#button.addEventListener("click", () => this.#toggle());
    this.#film.addEventListener("pointermove", ({ offsetX, offsetY }) => this.#point({ offsetX, offsetY }));
    this.#film.addEventListener("pointerleave", () => this.#point(null));
    addEventListener("resize", () => this.#redraw());
  }

  /** A new stream: `config` is video.start's. Streams of servers without this feature have no `memory` there. */
  begin(config = {}) {
    this.end();
    this.#config = config.memory ?? null;
    this.#fps = config.fps ?? this.#fps;
    this.#memory = new Map();
    this.#dropped.clear();
    this.#thumbs.clear();
    this.#seen = 0;
    this.#button.disabled = !this.#config;
    this.#timer = setInterval(() => this.#capture(), CAPTURE_MS);
    this.#redraw();
  }

  /** The stream is over; the last state stays. */
  end() {
    clearInterval(this.#timer);
  }

  /** Statistics of a chunk. */
  chunk(stats) {
    if (!stats.memory || !this.#config) return;
    const before = this.#memory;
    this.#rows = stats.memory.rows;
    this.#columns = stats.memory.columns;
    this.#memory = readMemory(stats.memory);
    this.#stats = stats;
    this.#seen = Math.max(this.#seen, ...this.#memory.keys()) + 0;
    this.#noteDropped(before);
    this.#forget();
    this.#redraw();
  }

  #toggle() {
    this.#on = !this.#on;
    this.#button.setAttribute("aria-pressed", String(this.#on));
    this.#section.hidden = !this.#on;
    document.body.classList.toggle("remembering", this.#on);
    this.#redraw();
  }

  // ---- what happened

  #noteDropped(before) {
    const now = performance.now();
    for (const [latent, old] of before) {
      const kept = this.#memory.get(latent)?.kept;
      const cells = Float32Array.from(old.kept, (value, place) => Math.max(0, value - (kept?.[place] ?? 0)) / 255);
      if (cells.some((lost) => lost > 0.1)) this.#dropped.set(latent, { cells, at: now });
    }
  }

  #forget() {
    const now = performance.now();
    for (const [latent, { at }] of this.#dropped) if (now - at > FADE_MS) this.#dropped.delete(latent);
    const playing = this.#playing();
    for (const latent of this.#thumbs.keys()) {
      if (latent < playing - NEAR && !this.#memory.has(latent) && !this.#dropped.has(latent)) this.#thumbs.delete(latent);
    }
  }

  /** The latent frame that the picture on display belongs to. */
  #playing() {
    if (!this.#config) return -1;
    const { pictures_per_latent: each, first_latent_pictures: first } = this.#config;
    const picture = Math.floor(this.#video.currentTime * this.#fps + 0.01);
    return picture < first ? 0 : 1 + Math.floor((picture - first) / each);
  }

  // The picture of a moment is its last one: that is where its tokens stand.
  #capture() {
    if (document.hidden || !this.#config || this.#video.readyState < 2) return;
    const latent = this.#playing();
    const left = endOf(latent, this.#config, this.#fps) - this.#video.currentTime;
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth && (left < 1.6 / this.#fps || !this.#thumbs.has(latent))) {
      const canvas = new OffscreenCanvas(Math.round((THUMB_HEIGHT * videoWidth) / videoHeight), THUMB_HEIGHT);
      canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
      this.#thumbs.set(latent, canvas);
    }
    if (this.#on) this.#drawVeil(latent);
  }

  // ---- what is shown

  #redraw() {
    cancelAnimationFrame(this.#frame);
    if (!this.#on) return;
    this.#drawFilm();
    this.#describe();
    if (!this.#calm && this.#dropped.size) this.#frame = requestAnimationFrame(() => this.#animate());
  }

  #animate() {
    this.#forget();
    this.#drawFilm();
    if (this.#dropped.size) this.#frame = requestAnimationFrame(() => this.#animate());
  }

  #drawVeil(latent) {
    const context = fitted(this.#veil);
    const moment = this.#memory.get(latent);
    if (!moment && latent > this.#seen) return;
    this.#light(context, latent, moment, 0, 0, this.#veil.width, this.#veil.height, 0.55);
  }

  /** Dark where dropped, gold where salient, rose where just lost. */
  #light(context, latent, moment, x, y, width, height, depth) {
    const lost = this.#dropped.get(latent);
    const glow = lost && !this.#calm ? 1 - (performance.now() - lost.at) / FADE_MS : 0;
    const layers = [
      (place) => tint(INK, depth * (1 - (moment?.kept[place] ?? 0) / 255)),
      (place) => tint(GOLD, moment?.salience ? 0.6 * (moment.kept[place] / 255) * (moment.salience[place] / 255) ** 2 : 0),
    ];
    if (glow > 0) layers.push((place) => tint(ROSE, 0.75 * glow * lost.cells[place]));
    context.save();
    context.beginPath();
    context.roundRect(x, y, width, height, height * 0.06);
    context.clip();
    context.imageSmoothingQuality = "high";
    for (const [place, layer] of layers.entries()) {
      context.globalCompositeOperation = place === 1 ? "screen" : "source-over"; // light adds up, ink covers
      context.drawImage(grid(this.#rows, this.#columns, layer), x, y, width, height);
    }
    context.restore();
  }

  #drawFilm() {
    const context = fitted(this.#film);
    for (const { latent, x, y, width, height } of this.#places()) {
      const thumb = this.#thumbNear(latent);
      context.fillStyle = "rgb(255 255 255 / 6%)";
      context.beginPath();
      context.roundRect(x, y, width, height, height * 0.06);
      context.fill();
      if (!thumb) continue; // made, but not shown yet
      context.save();
      context.clip();
      context.drawImage(thumb, x, y, width, height);
      context.restore();
      this.#light(context, latent, this.#memory.get(latent), x, y, width, height, 0.9);
    }
    this.#film.dataset.moments = this.#places().length;
  }

  #thumbNear(latent) {
    for (let step = 0; step <= NEAR; step++) {
      const found = this.#thumbs.get(latent + step) ?? this.#thumbs.get(latent - step);
      if (found) return found;
    }
    return null;
  }

  /** Where each shown moment stands on the filmstrip: rows that fill the width, oldest first. */
  #places() {
    const latents = chosen(this.#memory).filter((latent) => latent <= this.#playing());
    if (!latents.length) return [];
    const scale = this.#film.width / Math.max(1, this.#film.clientWidth);
    const gap = 5 * scale;
    const aspect = this.#video.videoWidth / this.#video.videoHeight || 2;
    const across = this.#film.clientWidth < 520 ? 5 : ACROSS;
    const rows = Math.ceil(latents.length / across);
    this.#film.style.aspectRatio = `${across * aspect} / ${rows + 0.08}`;
    const width = (this.#film.width - gap * (across - 1)) / across;
    return latents.map((latent, place) => ({
      latent,
      x: (place % across) * (width + gap),
      y: Math.floor(place / across) * (width / aspect + gap),
      width,
      height: width / aspect,
    }));
  }

  #describe() {
    if (!this.#on) return;
    const places = this.#places();
    const total = (this.#seen + 1) * (this.#config?.tokens_per_latent ?? 0);
    if (!places.length || !total) {
      this.#words.textContent = this.#config ? "Nothing to remember yet" : "This server does not show its memory";
      this.#detail.textContent = "";
      return;
    }
    const { cache_tokens: kept = 0, cache_policy: policy, cache_fell_back: fell } = this.#stats;
    const percent = Math.round((100 * kept) / Math.max(kept, total));
    this.#words.textContent = `Remembers ${kept.toLocaleString("en")} of the ${Math.max(kept, total).toLocaleString("en")} tokens it has seen (${percent} %)`;
    const reach = Math.round(this.#video.currentTime - endOf(places[0].latent, this.#config, this.#fps));
    const about = `${places.length} moments, the oldest ${Math.max(0, reach)} s ago. Policy ${policy}${fell ? ", fallen back to because scores were not numbers" : ""}.`;
    this.#detail.textContent = this.#pointedAt(places) ?? about;
    this.#film.setAttribute("aria-label", `${this.#words.textContent}. ${about}`);
  }

  #point(pointer) {
    this.#pointer = pointer;
    this.#describe();
  }

  /** A sentence about the moment under the pointer, if there is one. */
  #pointedAt(places) {
    if (!this.#pointer) return null;
    const scale = this.#film.width / Math.max(1, this.#film.clientWidth);
    const [px, py] = [this.#pointer.offsetX * scale, this.#pointer.offsetY * scale];
    const hit = places.find(({ x, y, width, height }) => px >= x && px < x + width && py >= y && py < y + height);
    if (!hit) return null;
    const ago = Math.max(0, this.#video.currentTime - endOf(hit.latent, this.#config, this.#fps));
    return `${ago.toFixed(1)} s ago: ${Math.round(100 * share(this.#memory.get(hit.latent)))} % of this moment is kept.`;
  }
}

/** The canvas cleared and as sharp as its place on the page; its 2d context. */
function fitted(canvas) {
  const ratio = Math.min(2, devicePixelRatio || 1);
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return context;
}

function element(tag, properties, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
