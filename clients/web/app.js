// The page: one App wires the session, the player and the controls to the state (state.js) and the document (page.js).

import { Ambient } from "./ambient.js";
import { CameraWish } from "./camera.js";
import { CameraControls, LightControls, PromptBox, bindPageKeys } from "./controls.js";
import { byId } from "./dom.js";
import { KeyForm, hasKey } from "./key.js";
import { MemoryView } from "./memory.js";
import { hideTrouble, labelPicture, leaveWords, offerModels, offerRivals, paint, readAddress, showAspect, showTrouble, toggleFullscreen, writeAddress } from "./page.js";
import { Player, canPlay } from "./player.js";
import { lightIn, withLight } from "./prompt.js";
import { LiveSession } from "./protocol.js";
import { Reel } from "./reel.js";
import { Rival } from "./rival.js";
import { SceneLog, asInteractions, readLog, sceneHash } from "./scene.js";
import { models, readiness, ticket } from "./server.js";
import { Phase, opened, reduce, running, view } from "./state.js";
import { ReadOut } from "./stats.js";
import { TakeAlong } from "./takeaway.js";
import { Timeline } from "./timeline.js";
import { TourView } from "./tourview.js";

const BUFFER_SECONDS = 1.25; // how far the server may run ahead of the playhead
const READY_EVERY_MS = 1_000;
const FALLBACK_MIME = 'video/mp4; codecs="avc1.64001f"';
const FALLBACK_EXAMPLES = ["a sunny meadow, a red house with a blue roof on the left and a white mill on the right"];
const CAMERA_WORDS = /\b(left|right|hold|holds|still|camera|pan|pans|panning)\b/i;

class App {
  #address = readAddress();
  /** @type {import("./state.js").State} */
  #state = opened(this.#address.watch);
  #session = null;
  #askedAt = 0;
  #timeline = new Timeline();
  #reel = new Reel();
  #log = new SceneLog();
  #begun = { prompt: "", seed: "" }; // what the running stream began with
  #hurry = -1; // up to this chunk the scene of a link is only brought back
  #bufferSeconds = BUFFER_SECONDS;
  #fps = 16;
  #seed = byId("seed", HTMLInputElement);
  #models = byId("model", HTMLSelectElement);
  #player = new Player(byId("picture"));
  #readout = new ReadOut(byId("readout"));
  #ambient = new Ambient(byId("ambient"), byId("picture"));
  #memory = new MemoryView({ button: byId("memory-toggle"), section: byId("memory"), video: byId("picture"), veil: byId("veil") });
  #lights = new LightControls((light) => this.#chooseLight(light));
  #prompt = new PromptBox((text) => this.#promptChanged(text));
  #camera = new CameraWish((speed) => this.#tell({ camera: { speed } }));
  #tour = new TourView(this.#timeline, (order) => this.#tourOrder(order), (text) => this.#dispatch("note", { text }));
  #rival = new Rival(this.#player, (trouble) => showTrouble(trouble));
  #cameraControls = new CameraControls((speed) => this.#steer(speed));
  #keyForm = new KeyForm(() => this.#loadModels());

  run() {
    document.body.classList.toggle("embedded", self !== top);
    new TakeAlong(this.#reel, { scene: () => this.#scene(), say: (text) => (byId("along-note").textContent = text), failed: showTrouble });
    this.#bindPage();
    this.#bindPlayer();
    this.#prompt.offer(FALLBACK_EXAMPLES, {});
    if (this.#address.prompt) this.#prompt.text = this.#address.prompt;
    if (this.#address.seed) this.#seed.value = this.#address.seed;
    if (this.#state.watching) this.#lookOn();
    this.#show();
    setInterval(() => this.#live && this.#readout.tick(this.#player.framesShown, this.#player.lead), 1000);
    this.#loadModels();
    this.#watchReadiness();
  }

  get #live() {
    return this.#state.phase === Phase.LIVE;
  }

  /** The only way to another state. */
  #dispatch(type, event = {}) {
    this.#state = reduce(this.#state, { type, ...event });
    this.#show();
  }

  #show() {
    const seen = view(this.#state, this.#prompt.text);
    paint(seen);
    this.#tour.offered = seen.canSteer;
  }

  #lookOn() {
    document.body.classList.add("watching");
    byId("prompt", HTMLTextAreaElement).readOnly = true;
  }

  #bindPage() {
    byId("caption").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("begin").addEventListener("click", () => this.#playOrPause());
    byId("pause").addEventListener("click", () => this.#playOrPause());
    byId("stop").addEventListener("click", () => this.#stop());
    byId("trouble-close").addEventListener("click", hideTrouble);
    byId("dice").addEventListener("click", () => (this.#seed.value = String(randomSeed())));
    byId("keys-open").addEventListener("click", () => byId("keys-dialog", HTMLDialogElement).showModal());
    byId("share").addEventListener("click", () => this.#share());
    byId("fullscreen").addEventListener("click", toggleFullscreen);
    byId("picture").addEventListener("click", () => (this.#state.blocked ? this.#player.resume() : this.#playOrPause()));
    bindPageKeys({
      toggle: () => this.#playOrPause(),
      stop: () => this.#stop(),
      fullscreen: toggleFullscreen,
      write: () => this.#prompt.focus(),
      memory: () => this.#memory.toggle(),
      keys: () => byId("keys-dialog", HTMLDialogElement).showModal(),
    });
    addEventListener("pagehide", () => this.#session?.abandon());
  }

  #bindPlayer() {
    const player = this.#player;
    player.addEventListener("firstpicture", () => this.#firstPicture());
    player.addEventListener("playing", () => this.#dispatch("playing"));
    player.addEventListener("waiting", () => this.#dispatch("starved"));
    player.addEventListener("progress", () => this.#session?.report());
    player.addEventListener("ended", () => this.#rest());
    player.addEventListener("blocked", () => this.#dispatch("blocked"));
    player.addEventListener("failed", (/** @type {any} */ { detail }) => {
      this.#session?.abandon();
      this.#fail({ code: "decoder", message: detail });
    });
  }

  // ---- waiting for the server

  async #watchReadiness() {
    while (this.#state.phase === Phase.WAKING) {
      const server = await readiness();
      if (this.#state.phase !== Phase.WAKING) return;
      if (server.state === "ready") return this.#awake();
      this.#dispatch("readiness", { server });
      await new Promise((resolve) => setTimeout(resolve, READY_EVERY_MS));
    }
  }

  #awake() {
    this.#dispatch("warm");
    if (!this.#models.options.length) this.#loadModels();
    if (this.#state.startWhenWarm) this.#start();
  }

  async #loadModels() {
    const list = await models();
    if (list === null) return this.#keyForm.ask();
    if (!list.length) return;
    if (this.#address.model && !list.some(({ id }) => id === this.#address.model)) showTrouble({ code: "other_model" });
    offerModels(list.map(({ id }) => id), (id) => this.#offer(list.find((model) => model.id === id)));
    this.#offer(list[0]);
  }

  /** @param {Record<string, any>} model as /v1/models describes it */
  #offer({ examples, words, limits = {}, camera = true, cache_policy, cache_policies = [], ...size }) {
    const prompts = examples?.length ? examples : FALLBACK_EXAMPLES;
    this.#prompt.offer(prompts, words ?? {});
    if (limits.max_prompt_chars) this.#prompt.limit = limits.max_prompt_chars;
    this.#bufferSeconds = Math.min(BUFFER_SECONDS, limits.max_streaming_buffer_seconds ?? BUFFER_SECONDS);
    this.#cameraControls.offered = camera;
    offerRivals(cache_policies.filter((name) => name !== cache_policy));
    showAspect(size);
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
    /** @type {Record<string, any>} */
    const request = watching ? { type: "session.watch", session_id: watching, format: "m4s" } : this.#request();
    hideTrouble();
    this.#askedAt = performance.now();
    this.#readout.clear();
    this.#camera.reset(CAMERA_WORDS.test(this.#prompt.text) ? null : 0);
    this.#dispatch("start", { prompt: this.#prompt.text });
    this.#begun = { prompt: request.prompt ?? "", seed: String(request.seed ?? "") };
    for (const part of [this.#timeline, this.#reel, this.#log]) part.clear();
    if (!watching) this.#recall(request);
    leaveWords();
    this.#open(request);
    const policy = byId("rival-policy", HTMLSelectElement).value;
    if (policy && !watching) this.#rival.start(request, policy, this.#pass);
  }

  // The changes that a link brought, if its words and seed still stand; else the address says what begins now.
  #recall(request) {
    const { prompt, seed, log, until } = this.#address;
    this.#hurry = -1;
    if (!log || request.prompt !== prompt || String(request.seed) !== seed) return writeAddress(this.#begun);
    try {
      const changes = readLog(log);
      request.interactions = asInteractions(changes);
      this.#log.begin(changes);
      this.#hurry = until;
    } catch {
      showTrouble({ code: "broken_link" });
    }
  }

  /** What is on display, to be painted again: null as link when too much was changed. */
  #scene() {
    const until = this.#timeline.chunkAt(this.#player.position);
    const hash = sceneHash({ ...this.#begun, model: this.#models.value, changes: this.#log.changes, until });
    return { prompt: this.#state.shown, seed: this.#begun.seed, link: hash && new URL(hash, location.href).href };
  }

  #request() {
    const seed = Number.parseInt(this.#seed.value, 10);
    const request = {
      prompt: this.#prompt.text,
      format: "m4s",
      seed: seed >= 0 ? seed : randomSeed(),
      streaming_buffer_seconds: this.#bufferSeconds,
      memory: true,
    };
    return this.#models.value ? { ...request, model: this.#models.value } : request;
  }

  #open(request) {
    const session = new LiveSession();
    this.#session = session;
    const on = (type, handle) => session.addEventListener(type, (/** @type {any} */ { detail }) => this.#session === session && handle(detail));
    on("start", (message) => this.#accepted(message));
    on("chunk", ({ metadata, data }) => this.#chunk(metadata, data));
    on("queued", ({ event_id, unknown_words = [] }) => this.#dispatch("heard", { id: event_id, strangers: unknown_words }));
    on("applied", ({ event_id, chunk_index }) => this.#applied(event_id, chunk_index));
    on("waiting", ({ position, seconds }) => this.#dispatch("inLine", { position, seconds }));
    for (const type of ["interrupted", "leaving", "reconnecting", "resumed"]) on(type, () => this.#dispatch(type));
    on("done", (message) => this.#done(message));
    on("trouble", (trouble) => (trouble.fatal ? this.#fail(trouble) : this.#refused(trouble)));
    on("closed", () => (this.#state.phase === Phase.STOPPING || !this.#state.chunks) && this.#rest());
    this.#connect(session, request);
  }

  // A server with keys gives a ticket for each socket.
  #pass = async () => (hasKey() ? ticket() : null);

  async #connect(session, request) {
    // What is only brought back counts as played, so that the server does not wait for it.
    const position = () => (this.#timeline.next <= this.#hurry ? this.#player.received : this.#player.playhead);
    try {
      await session.open(request, position, this.#pass);
    } catch (trouble) {
      if (this.#session !== session) return;
      if (trouble.code === "invalid_key") this.#keyForm.ask();
      this.#fail(trouble);
    }
  }

  /** @param {Record<string, any>} start the message video.start */
  #accepted({ mime = FALLBACK_MIME, config = {}, unknown_words = [], session_id = "" }) {
    this.#dispatch("accepted", { sessionId: session_id, strangers: unknown_words });
    if (!canPlay(mime)) {
      this.#session.abandon();
      return this.#fail({ code: "unsupported_video", message: mime });
    }
    this.#fps = config.fps ?? this.#fps;
    showAspect(config);
    this.#seed.placeholder = config.seed ?? "new each time";
    this.#player.begin(mime);
    this.#memory.begin(config);
  }

  #chunk(metadata, data) {
    this.#dispatch("chunk");
    const stats = metadata.stats ?? {};
    const seconds = (metadata.num_frames ?? 0) / this.#fps;
    this.#timeline.add(metadata.transport_chunk_index, seconds);
    if (data.byteLength) {
      this.#player.append(data, seconds);
      this.#reel.add(data, seconds, stats.prompt);
    }
    this.#readout.chunk(stats, this.#timeline.chunkSeconds);
    if (this.#rival.running) byId("own-name").textContent = stats.cache_policy ?? "";
    this.#memory.chunk(stats);
    if (this.#state.watching && stats.prompt) this.#prompt.text = stats.prompt;
    if (stats.camera) this.#cameraControls.show(stats.camera.speed ?? 0);
    labelPicture(stats);
  }

  #firstPicture() {
    if (this.#state.phase !== Phase.OPENING) return;
    this.#readout.firstPicture((performance.now() - this.#askedAt) / 1000);
    this.#dispatch("firstPicture");
    this.#ambient.start();
  }

  // The big button, the picture and the space bar.
  #playOrPause() {
    if (!this.#live) return running(this.#state) || this.#submit();
    this.#dispatch("paused", { paused: !this.#state.paused });
    if (this.#state.paused) this.#player.pause();
    else this.#player.resume();
    if (!this.#state.watching) this.#session.pause(this.#state.paused);
    this.#rival.pause(this.#state.paused);
  }

  #changePrompt(camera) {
    const prompt = this.#prompt.text;
    if (prompt === this.#state.shown && camera === undefined) return leaveWords();
    const id = this.#tell({ prompt, camera });
    if (!id) return;
    if (camera === undefined && CAMERA_WORDS.test(prompt)) this.#camera.reset(null);
    this.#prompt.remember(prompt);
    this.#dispatch("told", { id, prompt });
    leaveWords();
  }

  #applied(id, chunk) {
    this.#log.applied(id, chunk);
    this.#camera.applied(id);
    this.#dispatch("applied", { id });
  }

  // The server did not take a change; the stream goes on.
  #refused(trouble) {
    this.#dispatch("refused");
    showTrouble(trouble);
  }

  // A change for the running stream, and for the one beside it at the same chunk; the event's id, or null.
  #tell({ at = undefined, ...change }) {
    const at_chunk = at ?? (this.#rival.running ? this.#rival.chunkForBoth(this.#timeline.next) : undefined);
    const id = this.#session?.interact({ ...change, at_chunk }) ?? null;
    this.#log.told(id, change);
    this.#rival.interact({ ...change, at_chunk });
    return id;
  }

  #tourOrder({ at, speed }) {
    this.#camera.reset(0);
    this.#tell({ camera: { speed }, at });
  }

  #steer(speed) {
    if (this.#live && !this.#state.paused && !this.#state.watching) this.#camera.want(speed);
  }

  #chooseLight(light) {
    this.#prompt.text = withLight(this.#prompt.text, light);
    // The camera goes on as it is: its words in the prompt are not meant anew.
    if (this.#live) this.#changePrompt(this.#camera.speed === null ? undefined : { speed: this.#camera.speed });
  }

  #promptChanged(text) {
    this.#lights.show(lightIn(text));
    this.#show();
  }

  #stop() {
    if (!running(this.#state)) return;
    this.#dispatch("stop");
    this.#player.halt();
    this.#session.stop();
  }

  #done({ reason }) {
    this.#player.finish();
    if (reason === "server_shutdown") showTrouble({ code: "shutting_down" });
    else if (this.#state.watching) showTrouble({ code: "not_watchable" });
  }

  // The stream is over: the last picture stays.
  #rest(event = "rest") {
    this.#ambient.stop();
    this.#memory.end();
    this.#rival.stop();
    this.#player.halt();
    this.#session = null;
    this.#cameraControls.show(0);
    this.#dispatch(event);
  }

  #fail(trouble) {
    const stopping = this.#state.phase === Phase.STOPPING;
    this.#rest("fail");
    if (stopping) return;
    const over = this.#state.watching && trouble.code === "unknown_session";
    showTrouble(over ? { code: "not_watchable" } : trouble);
    this.#watchReadiness();
  }

  // A link to this stream for others to look on.
  async #share() {
    const link = new URL(`#watch=${this.#state.sessionId}`, location.href).href;
    try {
      await navigator.clipboard.writeText(link);
      this.#dispatch("note", { text: "The link is copied: who opens it looks on." });
    } catch {
      this.#dispatch("note", { text: `Who opens this link looks on: ${link}` });
    }
  }
}

function randomSeed() {
  return Math.floor(Math.random() * 2 ** 31);
}

new App().run();
