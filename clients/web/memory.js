// The memory view: what the model still knows of what it has shown.
//
// Every moment that the cache still holds something of becomes a picture in a filmstrip, cut into the model's own tokens:
// a tile that is kept has its colours, with a golden edge the brighter the more salient it is; a tile that was dropped
// flashes and is grey from then on. The same edges lie over the picture that is playing. All of it comes from
// `stats.memory` of the chunks and from the video itself.

const THUMB_HEIGHT = 128; // pixels of a stored picture
const NARROW = 520; // pixels of a filmstrip for a phone
const LABEL = 18; // pixels under each picture, for when that was
const GAP = 8; // pixels between pictures
const NEAR = 3; // a moment whose picture was skipped by the player borrows one that is so near
const SHOWN_FROM = 0.02; // share of a moment's tokens below which it is as good as forgotten
const FADE_MS = 1200; // how long a dropped token glows before it is grey
const CAPTURE_MS = 40;
const GOLD = "255 214 130";
const ROSE = "255 98 122";
const INK = "12 14 24";
const PAPER = "rgb(246 236 220 / 82%)";

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

/** [latent, moment] of those that are not as good as forgotten, in time order. */
const stillKnown = (memory) => [...memory].filter(([, moment]) => share(moment) >= SHOWN_FROM).sort(([a], [b]) => a - b);

/**
 * Moments to show, in time order: {latent, latents, kept, salience}. Where there are too many, neighbours of one view
 * (`viewOf(latent)`; a camera that stands still) become one, which holds what any of them holds. Of the moments those that
 * hold most, but as many of the older half as of the newer: what is long past and still known is what a memory is for.
 */
export function moments(memory, most, viewOf = (latent) => latent) {
  const found = [];
  const known = stillKnown(memory);
  const crowd = Math.ceil(known.length / most);
  for (const [latent, moment] of known) {
    const last = found.at(-1);
    if (last?.view === viewOf(latent) && last.latents.length < crowd) join(last, latent, moment);
    else found.push({ latent, latents: [latent], view: viewOf(latent), kept: moment.kept, salience: moment.salience });
  }
  const middle = Math.floor(found.length / 2);
  const [older, newer] = [best(found.slice(0, middle)), best(found.slice(middle))];
  const old = Math.min(older.length, Math.max(Math.floor(most / 2), most - newer.length));
  const chosen = [...older.slice(0, old), ...newer.slice(0, most - old)];
  return found.filter((moment) => chosen.includes(moment));
}

const best = (found) => found.sort((a, b) => share(b) - share(a));

function join(into, latent, { kept, salience }) {
  const more = (place) => kept[place] > into.kept[place];
  into.salience &&= into.salience.map((value, place) => (more(place) ? salience[place] : value));
  into.kept = into.kept.map((value, place) => (more(place) ? kept[place] : value));
  into.latents.push(latent);
  into.latent = latent;
}

/** Seconds of media time at which latent frame `latent` ends. */
export function endOf(latent, { pictures_per_latent: each, first_latent_pictures: first }, fps) {
  return (first + latent * each) / fps;
}

const ink = (colour, alpha) => `rgb(${colour} / ${(100 * Math.max(0, Math.min(1, alpha))).toFixed(1)}%)`;

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
  #bar; // how much of all that was seen is kept
  #legend;
  #detail;
  #on = false;
  #config = null;
  #fps = 16;
  #rows = 0;
  #columns = 0;
  #memory = new Map();
  #dropped = new Map(); // latent -> {cells: Float32Array of what was lost, at: time of the loss}
  #thumbs = new Map(); // latent -> canvas
  #seen = -1; // newest latent that was made
  #views = new Map(); // latent -> where the camera stood still; missing while it moved
  #veiled = null; // what the veil shows now
  #still = null; // the filmstrip without what glows
  #stats = {};
  #places = []; // of the moments on the filmstrip
  #known = []; // the latents of all moments that are not as good as forgotten, shown or not
  #pointer = null; // where it stands over the filmstrip
  #timer = 0;
  #frame = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  constructor({ tools, stage, place, video }) {
    this.#video = video;
    this.#button = element("button", { type: "button", id: "memory-toggle", ariaPressed: "false", textContent: "Show its memory" });
    tools.children[0].after(element("div", { className: "tool chips" }, [this.#button]));
    this.#veil = element("canvas", { className: "memory-veil", ariaHidden: "true" });
    stage.querySelector("video").after(this.#veil);
    this.#film = element("canvas", { id: "memory-film" });
    this.#film.setAttribute("role", "img");
    this.#words = element("p", { className: "memory-words" });
    this.#bar = element("i", {});
    this.#detail = element("p", { className: "memory-detail" });
    this.#legend = element("ul", { className: "memory-legend" }, [
      element("li", { className: "plain", textContent: "kept" }),
      element("li", { className: "gold", textContent: "kept and salient" }),
      element("li", { className: "rose", textContent: "just dropped" }),
      element("li", { className: "ink", textContent: "forgotten" }),
    ]);
    this.#section = element("section", { className: "memory", id: "memory", hidden: true, ariaLabel: "What it remembers" }, [
      element("div", { className: "memory-head" }, [this.#words, this.#legend]),
      element("div", { className: "memory-bar", ariaHidden: "true" }, [this.#bar]),
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
    this.#views.clear();
    this.#seen = -1;
    this.#veiled = null;
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
    this.#noteMade(stats.camera);
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

  #noteMade(camera) {
    for (const latent of this.#memory.keys()) {
      if (latent > this.#seen && camera?.speed === 0) this.#views.set(latent, `at ${camera.offset}`);
    }
    this.#seen = Math.max(this.#seen, ...this.#memory.keys());
  }

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
    this.#veiled = null;
    if (!this.#on) return;
    this.#drawFilm();
    this.#describe();
    this.#animate();
  }

  // Only what glows is drawn again and again, over the strip that stays as it is until the next chunk.
  #animate() {
    this.#forget();
    const context = this.#film.getContext("2d");
    context.clearRect(0, 0, this.#film.width, this.#film.height);
    if (this.#still.width && this.#still.height) context.drawImage(this.#still, 0, 0);
    if (this.#calm || !this.#dropped.size) return;
    for (const place of this.#places) {
      for (const latent of place.latents) this.#glow(context, this.#dropped.get(latent), place);
    }
    this.#frame = requestAnimationFrame(() => this.#animate());
  }

  #glow(context, lost, place) {
    if (!lost) return;
    const left = 1 - (performance.now() - lost.at) / FADE_MS;
    this.#eachTile(place, (cell, x, y, width, height) => {
      if (lost.cells[cell] < 0.05) return;
      context.fillStyle = ink(ROSE, 0.85 * left * lost.cells[cell]);
      context.fillRect(x, y, width, height);
    });
  }

  // The picture that plays: golden edges where it is salient, shade where it was dropped already.
  #drawVeil(latent) {
    if (this.#veiled === latent) return;
    this.#veiled = latent;
    fit(this.#veil, this.#veil.clientWidth, this.#veil.clientHeight);
    const moment = this.#memory.get(latent);
    if (!moment) return;
    const context = this.#veil.getContext("2d");
    const whole = { x: 0, y: 0, width: this.#veil.width, height: this.#veil.height };
    this.#eachTile(whole, (cell, x, y, width, height) => {
      const kept = moment.kept[cell] / 255;
      context.fillStyle = ink(INK, 0.35 * (1 - kept));
      context.fillRect(x, y, width, height);
      if (moment.salience) this.#edge(context, kept * (moment.salience[cell] / 255) ** 2, x, y, width, height);
    });
  }

  #edge(context, strength, x, y, width, height) {
    if (strength < 0.05) return;
    const line = Math.max(1, Math.min(2.5 * this.#scale, Math.min(width, height) / 14));
    context.fillStyle = ink(GOLD, 0.12 * strength);
    context.fillRect(x, y, width, height);
    context.strokeStyle = ink(GOLD, 0.9 * strength);
    context.lineWidth = line;
    context.beginPath();
    context.roundRect(x + line, y + line, width - 2 * line, height - 2 * line, line);
    context.stroke();
  }

  #eachTile({ x, y, width, height }, draw) {
    const across = (column) => Math.round(x + (width * column) / this.#columns); // whole pixels: no seams between tiles
    const down = (row) => Math.round(y + (height * row) / this.#rows);
    for (let row = 0; row < this.#rows; row++) {
      for (let column = 0; column < this.#columns; column++) {
        const [left, top] = [across(column), down(row)];
        draw(row * this.#columns + column, left, top, across(column + 1) - left, down(row + 1) - top);
      }
    }
  }

  #drawFilm() {
    this.#places = this.#layOut();
    this.#still = new OffscreenCanvas(this.#film.width, this.#film.height);
    const context = this.#still.getContext("2d");
    for (const place of this.#places) {
      context.save();
      context.beginPath();
      context.roundRect(place.x, place.y, place.width, place.height, place.height * 0.08);
      context.fillStyle = "rgb(255 255 255 / 6%)";
      context.fill();
      context.clip();
      const thumb = this.#thumbNear(place.latent);
      if (thumb) this.#drawMoment(context, thumb, place); // else it was made, but not shown yet
      context.restore();
      this.#drawLabel(context, place);
    }
    this.#film.dataset.moments = this.#places.length;
  }

  // Grey and dark first, then the tiles that are kept with their colours.
  #drawMoment(context, thumb, place) {
    const { x, y, width, height, kept, salience } = place;
    context.drawImage(thumb, x, y, width, height);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(x, y, width, height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = ink(INK, 0.68);
    context.fillRect(x, y, width, height);
    const [sx, sy] = [thumb.width / width, thumb.height / height];
    this.#eachTile(place, (cell, left, top, across, down) => {
      if (!kept[cell]) return;
      context.globalAlpha = Math.sqrt(kept[cell] / 255); // a token that few layers hold is still to be seen
      context.drawImage(thumb, (left - x) * sx, (top - y) * sy, across * sx, down * sy, left, top, across, down);
      context.globalAlpha = 1;
      if (salience) this.#edge(context, (kept[cell] / 255) * (salience[cell] / 255) ** 2, left, top, across, down);
    });
  }

  #drawLabel(context, { latent, x, y, width, height, kept }) {
    const scale = this.#scale;
    context.fillStyle = PAPER;
    context.font = `${11 * scale}px ui-rounded, system-ui, sans-serif`;
    context.textBaseline = "bottom";
    const base = y + height + (LABEL - 3) * scale;
    const seconds = this.#video.currentTime - endOf(latent, this.#config, this.#fps);
    context.textAlign = "left";
    context.fillText(seconds < 0.3 ? "now" : `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s ago`, x + 3 * scale, base);
    context.textAlign = "right";
    context.fillText(`${Math.round(100 * share({ kept }))} %`, x + width - 3 * scale, base);
  }

  #thumbNear(latent) {
    for (let step = 0; step <= NEAR; step++) {
      const found = this.#thumbs.get(latent + step) ?? this.#thumbs.get(latent - step);
      if (found) return found;
    }
    return null;
  }

  get #scale() {
    return Math.min(2, devicePixelRatio || 1);
  }

  /** The moments with their places on the filmstrip: rows that fill the width, oldest first. Fits the canvas to them. */
  #layOut() {
    const across = this.#film.clientWidth < NARROW ? 3 : 6;
    const seen = new Map([...this.#memory].filter(([latent]) => latent <= this.#playing()));
    this.#known = stillKnown(seen).map(([latent]) => latent);
    const shown = moments(seen, across === 3 ? 9 : 12, (latent) => this.#views.get(latent) ?? latent);
    const aspect = this.#video.videoWidth / this.#video.videoHeight || 2;
    const wide = Math.max(1, (this.#film.clientWidth - GAP * (across - 1)) / across); // it may be out of sight
    const step = wide / aspect + LABEL + GAP;
    const high = Math.max(1, Math.ceil(shown.length / across)) * step - GAP;
    this.#film.style.height = `${high}px`;
    fit(this.#film, this.#film.clientWidth, high);
    const scale = this.#scale;
    return shown.map((moment, place) => ({
      ...moment,
      x: (place % across) * (wide + GAP) * scale,
      y: Math.floor(place / across) * step * scale,
      width: wide * scale,
      height: (wide / aspect) * scale,
    }));
  }

  #describe() {
    if (!this.#on) return;
    const places = this.#places;
    const total = (this.#seen + 1) * (this.#config?.tokens_per_latent ?? 0);
    if (!places.length || !total) {
      this.#words.textContent = this.#config ? "Nothing to remember yet" : "This server does not show its memory";
      this.#detail.textContent = "";
      return;
    }
    const { cache_tokens: kept = 0, cache_policy: policy, cache_fell_back: fell } = this.#stats;
    const percent = Math.round((100 * kept) / Math.max(kept, total));
    this.#words.textContent = `Remembers ${kept.toLocaleString("en")} of the ${Math.max(kept, total).toLocaleString("en")} tokens it has seen (${percent}\u00a0%)`;
    this.#bar.style.width = `${percent}%`;
    this.#legend.classList.toggle("scored", places.some(({ salience }) => salience));
    const known = this.#known.length;
    const reach = Math.round(this.#video.currentTime - endOf(this.#known[0], this.#config, this.#fps));
    const part = known > places.length ? `; here are ${places.length}` : "";
    const about = `It still knows ${known} ${known === 1 ? "moment" : "moments"}, the oldest from ${Math.max(0, reach)} s ago${part}. Policy ${policy}${fell ? ", fallen back to because scores were not numbers" : ""}.`;
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
    const scale = this.#scale;
    const [px, py] = [this.#pointer.offsetX * scale, this.#pointer.offsetY * scale];
    const hit = places.find(({ x, y, width, height }) => px >= x && px < x + width && py >= y && py < y + height);
    if (!hit) return null;
    const ago = Math.max(0, this.#video.currentTime - endOf(hit.latent, this.#config, this.#fps));
    return `${ago.toFixed(1)} s ago: ${Math.round(100 * share(hit))} % of this moment is kept.`;
  }
}

/** Make the canvas empty, and as sharp as `width` x `height` pixels of the page ask for. */
function fit(canvas, width, height) {
  const ratio = Math.min(2, devicePixelRatio || 1);
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
}

function element(tag, properties, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
