// <pafu-player>: a live stream as an element. Our own page uses it too, with its own <video> inside.

import { CameraWish } from "./camera.js";
import { canPlay } from "./decoder.js";
import { Player } from "./player.js";
import { LiveSession } from "./protocol.js";

const SPEED = 4; // pixels per picture while a camera button is held
const STYLE = `
  :host { display: block; position: relative; background: #000; color: #fff; font: 1rem/1.4 system-ui, sans-serif; }
  :host([hidden]) { display: none; }
  .own { display: block; width: 100%; height: 100%; object-fit: contain; }
  .said { position: absolute; inset: auto 0 50% 0; margin: 0 auto; max-width: 30em; padding: .5em 1em; background: #000b; text-align: center; }
  .said:empty { display: none; }
  .bar { position: absolute; inset: auto 0 0 0; display: flex; gap: .25em; padding: .25em; background: #0009; }
  .bar button, .bar input { min-width: 44px; min-height: 44px; border: 0; border-radius: 6px; background: #fff2; color: inherit; font: inherit; }
  .bar svg { width: 24px; height: 24px; fill: currentcolor; vertical-align: middle; pointer-events: none; }
  .bar input { flex: 1; padding: 0 .75em; min-width: 4em; }
  .bar button:focus-visible, .bar input:focus-visible { outline: 2px solid #fff; }
`;
const ICONS = {
  play: "M8 5v14l11-7Z",
  pause: "M7 5h4v14H7ZM13 5h4v14h-4Z",
  left: "M14.6 4.6 16 6l-6 6 6 6-1.4 1.4L7.2 12Z",
  right: "M9.4 4.6 8 6l6 6-6 6 1.4 1.4 7.4-7.4Z",
  fullscreen: "M4 9V4h5v2H6v3ZM15 4h5v5h-2V6h-3ZM18 15h2v5h-5v-2h3ZM9 20H4v-5h2v3h3Z",
};
const icon = (/** @type {keyof typeof ICONS} */ name) => `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
const BAR = `
  <form class="bar">
    <button type="button" data-do="toggle" aria-label="Play">${icon("play")}</button>
    <button type="button" data-speed="-1" aria-label="Move the camera left while held">${icon("left")}</button>
    <button type="button" data-speed="1" aria-label="Move the camera right while held">${icon("right")}</button>
    <input name="prompt" aria-label="What you see" maxlength="400" autocomplete="off">
    <button type="button" data-do="fullscreen" aria-label="Full screen">${icon("fullscreen")}</button>
  </form>
`;

/**
 * @typedef {object} Ways
 * @property {() => number} [position] the playhead to report; default: the player's
 * @property {import("./protocol.js").Pass} [pass] returns a ticket for each socket, for servers with keys
 * @property {import("./protocol.js").Place["why"]} [why]
 */

/**
 * Attributes: src (URL of the server; default: the page's own), prompt (changing it during playback changes the video),
 * seed, model, policy, session (watch that one), autoplay, controls, muted. For servers with keys, set `pass` to a
 * function that returns a ticket. If the element contains a <video>, that one is used.
 *
 * Events: those of LiveSession and of Player, each a CustomEvent with the same detail; they do not bubble.
 */
export class PafuPlayer extends HTMLElement {
  static observedAttributes = ["prompt", "muted", "controls"];
  /** @type {import("./protocol.js").Pass | undefined} */
  pass;
  /** @type {LiveSession | null} the current one */
  session = null;
  #paused = false;
  #camera = new CameraWish((speed) => this.interact({ camera: { speed } }));
  #shadow = this.attachShadow({ mode: "open" });
  /** @type {HTMLVideoElement} */
  video;
  /** @type {Player} */
  player;

  constructor() {
    super();
    const given = this.querySelector("video");
    const screen = given ? "<slot></slot>" : `<video class="own" part="video" playsinline></video>`;
    this.#shadow.innerHTML = `${screen}<p class="said" part="message" role="status"></p>`;
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    this.#shadow.adoptedStyleSheets = [sheet];
    this.video = given ?? /** @type {HTMLVideoElement} */ (this.#shadow.querySelector("video"));
    this.player = new Player(this.video);
    for (const type of ["firstpicture", "playing", "waiting", "ended", "blocked", "failed"]) {
      this.player.addEventListener(type, (event) => this.#tell(`player-${type}`, /** @type {CustomEvent} */ (event).detail));
    }
    this.player.addEventListener("blocked", () => this.#say("Press play"));
    this.player.addEventListener("firstpicture", () => this.#say(""));
    this.player.addEventListener("progress", () => this.session?.report());
    this.player.addEventListener("ended", () => this.#rest());
    this.player.addEventListener("failed", () => this.session?.abandon());
  }

  connectedCallback() {
    this.#showControls();
    this.video.muted ||= this.hasAttribute("muted");
    const asked = this.hasAttribute("prompt") || this.hasAttribute("session");
    if (this.hasAttribute("autoplay") && asked && !this.session) this.play();
  }

  disconnectedCallback() {
    queueMicrotask(() => this.isConnected || this.stop()); // it may have only moved in the document
  }

  /** @param {string} name @param {string | null} old @param {string | null} value */
  attributeChangedCallback(name, old, value) {
    if (old === value) return;
    if (name === "muted") this.video.muted = value !== null;
    if (name === "controls" && this.isConnected) this.#showControls();
    if (name === "prompt" && value !== null) {
      this.session?.interact({ prompt: value });
      const field = /** @type {HTMLInputElement | null} */ (this.#shadow.querySelector("input"));
      if (field) field.value = value;
    }
  }

  /** Start the stream that the attributes describe, or continue after `pause`. */
  play() {
    if (!this.session) return void this.start(this.#request(), { pass: this.pass });
    this.#paused = false;
    this.player.resume();
    if (!this.hasAttribute("session")) this.session.pause(false);
    this.#label();
  }

  /** Pause playback and generation. */
  pause() {
    this.#paused = true;
    this.player.pause();
    if (!this.hasAttribute("session")) this.session?.pause();
    this.#label();
  }

  get paused() {
    return this.#paused || !this.session;
  }

  /** End the stream; the last picture stays. */
  stop() {
    this.session?.stop();
    this.#rest();
  }

  /** Change the prompt or the camera; returns the change's id, or null. @param {import("./protocol.js").Interaction} change */
  interact(change) {
    return this.session?.interact(change) ?? null;
  }

  /**
   * Play the answer to `request` (session.start or session.watch). The element re-emits the session's events.
   * @param {import("./protocol.js").Request} request
   * @param {Ways} [ways]
   */
  start(request, { position = () => this.player.playhead, pass, why } = {}) {
    this.session?.abandon();
    const session = new LiveSession({ server: this.getAttribute("src") ?? undefined, why });
    this.session = session;
    this.#paused = false;
    this.#camera.reset();
    let fps = 16;
    /** @type {LiveSession["on"]} */
    const on = (type, handle) =>
      session.on(type, (detail) => {
        if (this.session !== session) return;
        handle(detail);
        this.#tell(type, detail);
      });
    on("start", ({ mime, config }) => {
      fps = config.fps;
      if (canPlay(mime)) return this.player.begin(mime);
      session.fail({ code: "unsupported_video", message: `this browser plays no ${mime}` });
    });
    on("chunk", ({ metadata, data }) => data.byteLength && this.player.append(data, metadata.num_frames / fps));
    on("waiting", ({ position: place }) => this.#say(`Waiting for a place: ${place} in line`));
    on("reconnecting", () => this.#say("Reconnecting"));
    on("resumed", () => this.#say(""));
    on("done", () => this.player.finish());
    on("trouble", ({ message, code, fatal }) => fatal && this.#say(message || code));
    on("closed", () => {
      if (!this.player.received) this.#rest();
    });
    on("applied", ({ event_id }) => this.#camera.applied(event_id));
    for (const type of /** @type {const} */ (["queued", "interrupted", "leaving"])) on(type, () => {});
    void session.open(request, position, pass);
    this.#label();
    return session;
  }

  #request() {
    const words = this.getAttribute("session");
    if (words) return { type: "session.watch", session_id: words, format: "m4s" };
    const given = { prompt: this.getAttribute("prompt") ?? "", model: this.getAttribute("model") ?? undefined };
    const [seed, policy] = [this.getAttribute("seed"), this.getAttribute("policy")];
    return { ...given, ...(seed ? { seed: Number(seed) } : {}), ...(policy ? { extra_params: { cache: { policy } } } : {}) };
  }

  #rest() {
    this.player.halt();
    this.session = null;
    this.#label();
  }

  // ---- its own controls

  #showControls() {
    const bar = /** @type {HTMLFormElement | null} */ (this.#shadow.querySelector(".bar"));
    if (!this.hasAttribute("controls")) return bar?.remove();
    if (bar) return;
    const template = document.createElement("template");
    template.innerHTML = BAR;
    this.#shadow.append(template.content);
    this.#bind(/** @type {HTMLFormElement} */ (this.#shadow.querySelector(".bar")));
    this.#label();
  }

  /** @param {HTMLFormElement} bar */
  #bind(bar) {
    const field = /** @type {HTMLInputElement} */ (bar.querySelector("input"));
    field.value = this.getAttribute("prompt") ?? "";
    bar.addEventListener("submit", (event) => {
      event.preventDefault();
      this.setAttribute("prompt", field.value);
      if (!this.session) this.play();
    });
    bar.addEventListener("click", ({ target }) => {
      const what = /** @type {HTMLElement} */ (target).dataset.do;
      if (what === "toggle") return this.paused ? this.play() : this.pause();
      if (what === "fullscreen") void (document.fullscreenElement ? document.exitFullscreen() : this.requestFullscreen?.());
    });
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (bar.querySelectorAll("[data-speed]"))) {
      const speed = SPEED * Number(button.dataset.speed);
      const key = (/** @type {KeyboardEvent} */ event) => event.key === "Enter" || event.key === " ";
      button.addEventListener("pointerdown", ({ pointerId }) => {
        button.setPointerCapture(pointerId); // the release counts outside the button, too
        this.#camera.want(speed);
      });
      button.addEventListener("keydown", (event) => key(event) && !event.repeat && this.#camera.want(speed));
      button.addEventListener("keyup", (event) => key(event) && this.#camera.want(0));
      for (const end of ["pointerup", "pointercancel", "blur"]) button.addEventListener(end, () => this.#camera.want(0));
    }
  }

  #label() {
    const button = this.#shadow.querySelector("[data-do=toggle]");
    if (!button) return;
    button.innerHTML = icon(this.paused ? "play" : "pause");
    button.setAttribute("aria-label", this.paused ? "Play" : "Pause");
  }

  // A page with its own <video> shows status texts itself.
  /** @param {string} text */
  #say(text) {
    const said = /** @type {HTMLElement} */ (this.#shadow.querySelector(".said"));
    said.textContent = this.querySelector("video") ? "" : text;
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

if (!customElements.get("pafu-player")) customElements.define("pafu-player", PafuPlayer);
