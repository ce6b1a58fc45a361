// The page: App connects the stream and the controls to the state (state.js) and the document (page.js).

import { CameraWish } from "./client/camera.js";
import { CameraControls, LightControls, PromptBox, bindButtons, bindPageKeys } from "./controls.js";
import { Choice } from "./choice.js";
import { Source } from "./client/decoder.js";
import { byId } from "./dom.js";
import { Gallery } from "./gallery.js";
import { KeyForm } from "./key.js";
import { copied, hideTrouble, leaveWords, lookOn, paint, readAddress, showTrouble, toggleFullscreen, writeAddress } from "./page.js";
import { lightIn, withLight } from "./prompt.js";
import { madeElsewhere, readLink, recalled } from "./scene.js";
import { models, untilReady, version } from "./server.js";
import { Phase, opened, reduce, running, view } from "./state.js";
import { Stream } from "./stream.js";
import { TakeAlong } from "./takeaway.js";
import { TourView } from "./tourview.js";

const FALLBACK_EXAMPLES = ["a sunny meadow, a red house with a blue roof on the left and a white mill on the right"];
const CAMERA_WORDS = /\b(left|right|hold|holds|still|camera|pan|pans|panning)\b/i;

/** @typedef {import("./errors.js").Trouble} Trouble */

class App {
  #address = readAddress();
  #state = opened(this.#address.watch);
  #choice = new Choice((model) => this.#offer(model), { say: (text) => this.#dispatch("note", { text }), failed: showTrouble, fine: hideTrouble });
  #stream = new Stream({
    dispatch: (type, event) => this.#dispatch(type, event),
    accepted: (config) => this.#choice.show(config),
    chunk: (stats, replayed) => this.#chunk(stats, replayed),
    applied: (id) => this.#camera.applied(id),
    refused: (trouble) => this.#refused(trouble),
    failed: (trouble) => this.#fail(trouble),
    rivalFailed: (trouble) => showTrouble(trouble),
    done: (reason) => this.#done(reason),
    closed: () => (this.#state.phase === Phase.STOPPING || !this.#state.chunks) && this.#rest(),
  });
  #lights = new LightControls((light) => this.#chooseLight(light));
  #prompt = new PromptBox((text) => this.#promptChanged(text));
  #gallery = new Gallery((point) => this.#begin(point));
  #version = ""; // of the server
  #camera = new CameraWish((speed) => this.#stream.tell({ camera: { speed } }));
  #tour = new TourView(this.#stream.screen.timeline, (order) => this.#tourOrder(order), (text) => this.#dispatch("note", { text }));
  #cameraControls = new CameraControls((speed) => this.#steer(speed));
  #keyForm = new KeyForm(() => this.#loadModels());

  run() {
    document.body.classList.toggle("embedded", self !== top);
    const say = (/** @type {string} */ text) => void (byId("along-note").textContent = text);
    new TakeAlong(this.#stream.screen.reel, { scene: (more) => this.#stream.scene(this.#maker, more), say, failed: showTrouble });
    this.#bindPage();
    this.#bindPlayer();
    this.#gallery.offer(FALLBACK_EXAMPLES);
    this.#readLink();
    if (this.#state.watching) lookOn();
    this.#show();
    setInterval(() => this.#live && this.#stream.screen.tick(), 1000);
    if (!Source) showTrouble({ code: "unsupported_video", message: "" });
    this.#loadModels();
    this.#awaitServer();
  }

  #readLink() {
    const { prompt, seed } = this.#address;
    if (prompt) this.#prompt.text = prompt;
    if (/^\d+$/.test(seed)) this.#choice.seed = seed;
    else this.#choice.throwDice();
    try {
      readLink(this.#address);
    } catch {
      showTrouble({ code: "broken_link" });
    }
  }

  get #live() {
    return this.#state.phase === Phase.LIVE;
  }

  /** Every change of state goes through here. @param {string} type @param {object} [event] */
  #dispatch(type, event = {}) {
    this.#state = reduce(this.#state, { type, ...event });
    this.#show();
  }

  #show() {
    const seen = view(this.#state, this.#prompt.text);
    paint(seen);
    this.#tour.offered = seen.canSteer;
  }

  #bindPage() {
    const keys = () => byId("keys-dialog", HTMLDialogElement).showModal();
    const [stop, toggle] = [() => this.#stop(), () => this.#playOrPause()];
    const fullscreen = async () => (await toggleFullscreen()) || this.#dispatch("note", { text: "This browser refuses full screen here." });
    const { player, memory } = this.#stream.screen;
    byId("fullscreen").hidden = !document.fullscreenEnabled;
    bindButtons({
      begin: toggle,
      pause: toggle,
      picture: () => (this.#state.blocked ? player.resume() : toggle()),
      stop,
      "keys-open": keys,
      fullscreen,
      share: () => this.#share(),
      dice: () => this.#otherSeed(),
      "trouble-close": hideTrouble,
    });
    bindPageKeys({ toggle, stop, fullscreen, write: () => this.#prompt.focus(), memory: () => memory.toggle(), keys });
    byId("caption").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    addEventListener("pagehide", () => this.#stream.abandon());
    addEventListener("hashchange", () => location.hash.includes("=") && location.reload()); // a link opened in this tab
  }

  #bindPlayer() {
    const { player } = this.#stream.screen;
    player.addEventListener("firstpicture", () => this.#firstPicture());
    player.addEventListener("playing", () => this.#dispatch("playing"));
    player.addEventListener("waiting", () => this.#dispatch("starved"));
    player.addEventListener("ended", () => this.#rest());
    player.addEventListener("pace", (event) => this.#dispatch("pace", { pace: /** @type {CustomEvent<number>} */ (event).detail }));
    player.addEventListener("blocked", () => this.#dispatch("blocked"));
    player.addEventListener("failed", (event) => {
      this.#stream.abandon();
      this.#fail({ code: "decoder", message: /** @type {CustomEvent<string>} */ (event).detail });
    });
  }

  // ---- what the server offers

  async #awaitServer() {
    await untilReady((server) => this.#dispatch("readiness", { server }));
    if (this.#state.phase !== Phase.WAKING) return;
    this.#dispatch("warm");
    if (!this.#choice.model) this.#loadModels();
    if (this.#state.startWhenWarm) this.#start();
  }

  async #loadModels() {
    const list = await models();
    if (list === null) return this.#keyForm.ask();
    if (!list.length) return;
    this.#choice.offer(list);
    this.#version = await version();
    const other = madeElsewhere(this.#address.maker, this.#maker);
    if (other) showTrouble(other);
    this.#gallery.look();
  }

  /** @param {import("./server.js").Model} model */
  #offer({ examples, words = {}, limits = {}, camera = true }) {
    const prompts = examples?.length ? examples : FALLBACK_EXAMPLES;
    this.#gallery.offer(prompts);
    this.#prompt.offer(words);
    if (limits.max_prompt_chars) this.#prompt.limit = limits.max_prompt_chars;
    this.#cameraControls.offered = camera;
    if (!this.#prompt.text) this.#prompt.text = prompts[0];
  }

  // ---- one stream

  #submit() {
    const { phase, watching } = this.#state;
    if (watching) return phase === Phase.READY && this.#start();
    if (!this.#prompt.text) {
      this.#prompt.focus();
      return showTrouble({ code: "empty_prompt" });
    }
    if (phase === Phase.LIVE) return this.#changePrompt();
    if (phase === Phase.READY) return this.#start();
    if (phase === Phase.WAKING) this.#dispatch("wish");
  }

  #start() {
    const { watching } = this.#state;
    if (!watching) this.#prompt.remember(this.#prompt.text);
    hideTrouble();
    this.#camera.reset(CAMERA_WORDS.test(this.#prompt.text) ? null : 0);
    this.#dispatch("start", { prompt: this.#prompt.text });
    leaveWords();
    if (watching) return this.#stream.start({ type: "session.watch", session_id: watching, format: "m4s" });
    const request = this.#choice.request(this.#prompt.text);
    const policy = byId("rival-policy", HTMLSelectElement).value;
    this.#stream.start(request, { ...this.#recalled(request), policy });
  }

  // The link's changes, if its prompt and seed are unchanged; otherwise the address is set to the new stream.
  /** @param {{prompt: string, seed: number}} request */
  #recalled(request) {
    try {
      const changes = recalled(this.#address, request);
      if (!changes) writeAddress({ prompt: request.prompt, seed: String(request.seed) });
      return changes;
    } catch {
      showTrouble({ code: "broken_link" });
    }
  }

  get #maker() {
    return this.#choice.maker(this.#version);
  }

  /** A starting point was chosen. @param {import("./gallery.js").StartingPoint} point */
  #begin({ prompt, seed }) {
    this.#prompt.text = prompt;
    if (seed !== undefined) this.#choice.seed = String(seed);
    this.#prompt.focus();
  }

  // The box follows a prompt that came from somebody else, or from a link, but keeps what the viewer writes.
  /** @param {import("./client/messages.js").ServedStats} stats @param {boolean} replayed */
  #chunk({ prompt, camera }, replayed) {
    const { watching, shown } = this.#state;
    if ((watching || replayed) && prompt && prompt !== shown) {
      const untouched = watching || this.#prompt.text === shown;
      this.#dispatch("recalled", { prompt });
      if (untouched) this.#prompt.text = prompt;
    }
    this.#cameraControls.show(camera.speed);
  }

  #firstPicture() {
    if (this.#state.phase !== Phase.OPENING) return;
    this.#dispatch("firstPicture");
    this.#stream.screen.firstPicture();
  }

  // The big button, the picture and the space bar.
  #playOrPause() {
    if (!this.#live) return running(this.#state) || this.#submit();
    this.#dispatch("paused", { paused: !this.#state.paused });
    this.#stream.pause(this.#state.paused, !this.#state.watching);
  }

  /** @param {{speed: number}} [camera] */
  #changePrompt(camera) {
    const prompt = this.#prompt.text;
    if (prompt === this.#state.shown && camera === undefined) return leaveWords();
    const id = this.#stream.tell({ prompt, camera });
    if (!id) return;
    if (camera === undefined && CAMERA_WORDS.test(prompt)) this.#camera.reset(null);
    this.#prompt.remember(prompt);
    this.#dispatch("told", { id, prompt });
    leaveWords();
  }

  // The server refused a change; the stream continues.
  /** @param {Trouble} trouble */
  #refused(trouble) {
    this.#dispatch("refused");
    showTrouble(trouble);
  }

  /** @param {import("./tour.js").Order} order */
  #tourOrder({ at, speed }) {
    this.#camera.reset(0);
    this.#stream.tell({ camera: { speed }, at });
  }

  /** @param {number} speed */
  #steer(speed) {
    if (this.#live && !this.#state.paused && !this.#state.watching) this.#camera.want(speed);
  }

  /** @param {import("./prompt.js").Light} light */
  #chooseLight(light) {
    this.#prompt.text = withLight(this.#prompt.text, light);
    // The camera keeps its motion: the camera phrase in the prompt is not new.
    if (this.#live) this.#changePrompt(this.#camera.speed === null ? undefined : { speed: this.#camera.speed });
  }

  /** @param {string} text */
  #promptChanged(text) {
    this.#lights.show(lightIn(text));
    this.#show();
  }

  #otherSeed() {
    this.#choice.throwDice();
    if (running(this.#state)) this.#dispatch("note", { text: "The next start uses this seed." });
  }

  #stop() {
    if (!running(this.#state)) return;
    this.#dispatch("stop");
    this.#stream.stop();
  }

  /** @param {string} reason */
  #done(reason) {
    if (reason === "server_shutdown") showTrouble({ code: "shutting_down" });
    else if (this.#state.watching) showTrouble({ code: "not_watchable" });
  }

  // The stream is over: the last picture stays.
  #rest(event = "rest") {
    this.#tour.end();
    this.#stream.rest();
    this.#cameraControls.show(0);
    this.#dispatch(event);
  }

  /** @param {Trouble} trouble */
  #fail(trouble) {
    const stopping = this.#state.phase === Phase.STOPPING;
    this.#rest("fail");
    if (trouble.code === "invalid_key") this.#keyForm.ask();
    if (stopping) return;
    showTrouble(this.#named(trouble));
    this.#awaitServer();
  }

  // Some troubles have another cause in a link: without its stream, or with changes that the server refuses.
  /** @param {Trouble} trouble @returns {Trouble} */
  #named(trouble) {
    if (this.#state.watching && trouble.code === "unknown_session") return { code: "not_watchable" };
    if (!trouble.param?.startsWith("interactions")) return trouble;
    this.#address.log = "";
    return { code: "broken_link", message: trouble.message };
  }

  // A link with which others can watch this stream.
  async #share() {
    const link = new URL(`#watch=${this.#state.sessionId}`, location.href).href;
    const text = (await copied(link)) ? "Link copied: whoever opens it watches along." : `Whoever opens this link watches along: ${link}`;
    this.#dispatch("note", { text });
  }
}

new App().run();
