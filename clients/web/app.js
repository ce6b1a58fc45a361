// The page: one App wires the session, the player and the controls, and owns the phase that the page is in.

import { Ambient } from "./ambient.js";
import { CameraWish } from "./camera.js";
import { CameraControls, LightControls, PromptBox, bindPageKeys } from "./controls.js";
import { explain } from "./errors.js";
import { KeyForm, hasKey } from "./key.js";
import { MemoryView } from "./memory.js";
import { Player, canPlay } from "./player.js";
import { lightIn, withLight } from "./prompt.js";
import { LiveSession } from "./protocol.js";
import { models, readiness, ticket } from "./server.js";
import { ReadOut } from "./stats.js";

const BUFFER_SECONDS = 1.25; // how far the server may run ahead of the playhead
const READY_EVERY_MS = 1_000;
const FALLBACK_MIME = 'video/mp4; codecs="avc1.64001f"';
const FALLBACK_EXAMPLES = ["a sunny meadow, a red house with a blue roof on the left and a white mill on the right"];
const CAMERA_WORDS = /\b(left|right|hold|holds|still|camera|pan|pans|panning)\b/i;

const Phase = Object.freeze({ WAKING: "waking", READY: "ready", OPENING: "opening", LIVE: "live", STOPPING: "stopping" });
const STATUS = {
  waking: "Warming up",
  ready: "Ready",
  opening: "Painting the first picture",
  live: "Live",
  stopping: "Stopping",
};
const LEAVING = "The server is started again; the stream goes on by itself.";
const byId = (id) => document.getElementById(id);

class App {
  #phase = Phase.WAKING;
  #session = null;
  #shown = ""; // the prompt that the running stream has
  #pending = new Map(); // event id -> prompt not applied yet
  #strangers = []; // words of the prompt that the model does not know
  #startWhenWarm = false;
  #askedAt = 0;
  #chunkSeconds = 0.75;
  #chunks = 0; // of the running stream
  #watching = ""; // the session that this page looks on at; "" when it has its own
  #sessionId = ""; // of the running stream
  #paused = false; // by the viewer
  #blocked = false; // by the browser, until a gesture
  #hitch = ""; // why no pictures come just now, in words
  #bufferSeconds = BUFFER_SECONDS;
  #fps = 16;
  #player = new Player(byId("picture"));
  #readout = new ReadOut(byId("readout"));
  #ambient = new Ambient(byId("ambient"), byId("picture"));
  #memory = new MemoryView({ tools: document.querySelector(".tools"), stage: byId("stage"), place: byId("stage"), video: byId("picture") });
  #lights = new LightControls((light) => this.#chooseLight(light));
  #prompt = new PromptBox((text) => this.#promptChanged(text));
  #camera = new CameraWish((speed) => this.#session?.interact({ camera: { speed } }) ?? null);
  #cameraControls = new CameraControls((speed) => this.#steer(speed));
  #keyForm = new KeyForm(() => this.#loadModels());

  run() {
    this.#bindPage();
    this.#bindPlayer();
    this.#prompt.offer(FALLBACK_EXAMPLES, {});
    this.#setPhase(Phase.WAKING);
    this.#readHash();
    setInterval(() => this.#phase === Phase.LIVE && this.#readout.tick(this.#player.framesShown, this.#player.lead), 1000);
    this.#loadModels();
    this.#watchReadiness();
  }

  #bindPage() {
    byId("caption").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("begin").addEventListener("click", () => this.#playOrPause());
    byId("pause").addEventListener("click", () => this.#playOrPause());
    byId("stop").addEventListener("click", () => this.#stop());
    byId("trouble-close").addEventListener("click", () => (byId("trouble").hidden = true));
    byId("share").addEventListener("click", () => this.#share());
    byId("fullscreen").addEventListener("click", () => toggleFullscreen());
    byId("picture").addEventListener("click", () => (this.#blocked ? this.#player.resume() : this.#playOrPause()));
    bindPageKeys({
      toggle: () => this.#playOrPause(),
      stop: () => this.#stop(),
      fullscreen: toggleFullscreen,
      write: () => this.#prompt.focus(),
    });
    addEventListener("pagehide", () => this.#session?.abandon());
  }

  #bindPlayer() {
    const player = this.#player;
    player.addEventListener("firstpicture", () => this.#firstPicture());
    player.addEventListener("playing", () => {
      this.#blocked = false;
      this.#sayState();
    });
    player.addEventListener("waiting", () => this.#phase === Phase.LIVE && !this.#paused && this.#say(this.#hitch || "Waiting for pictures"));
    player.addEventListener("progress", () => this.#session?.report());
    player.addEventListener("ended", () => this.#rest());
    player.addEventListener("blocked", () => {
      this.#blocked = true;
      this.#say("Tap the picture to play");
    });
    player.addEventListener("failed", ({ detail }) => {
      this.#session?.abandon();
      this.#fail({ code: "decoder", message: detail });
    });
  }

  get #running() {
    return this.#phase === Phase.OPENING || this.#phase === Phase.LIVE;
  }

  // ---- waiting for the server

  async #watchReadiness() {
    while (this.#phase === Phase.WAKING) {
      const { state, reason } = await readiness();
      if (this.#phase !== Phase.WAKING) return;
      if (state === "ready") return this.#awake();
      this.#say(state === "away" ? "Looking for the server" : STATUS.waking);
      byId("wait-text").textContent =
        state === "away" ? "No answer yet; trying again" : sentence(reason) || "Warming up: the model draws its first pictures";
      await new Promise((resolve) => setTimeout(resolve, READY_EVERY_MS));
    }
  }

  #awake() {
    this.#setPhase(Phase.READY);
    if (!byId("model").options.length) this.#loadModels();
    if (this.#startWhenWarm) this.#start();
  }

  async #loadModels() {
    const list = await models();
    if (list === null) return this.#keyForm.ask();
    if (!list.length) return;
    const select = byId("model");
    select.replaceChildren(...list.map(({ id }) => new Option(id, id)));
    byId("model-field").hidden = list.length < 2;
    const offer = () => this.#offer(list.find(({ id }) => id === select.value) ?? list[0]);
    select.onchange = offer;
    offer();
  }

  #offer({ examples, words, limits = {}, camera = true, ...size }) {
    const prompts = examples?.length ? examples : FALLBACK_EXAMPLES;
    this.#prompt.offer(prompts, words ?? {});
    if (limits.max_prompt_chars) this.#prompt.limit = limits.max_prompt_chars;
    this.#bufferSeconds = Math.min(BUFFER_SECONDS, limits.max_streaming_buffer_seconds ?? BUFFER_SECONDS);
    this.#cameraControls.offered = camera;
    showAspect(size);
    if (!this.#prompt.text) this.#prompt.text = prompts[0];
  }

  // ---- one stream

  #submit() {
    if (this.#watching) return this.#phase === Phase.READY && this.#start();
    if (!this.#prompt.text) {
      this.#prompt.focus();
      return this.#trouble({ code: "empty_prompt" });
    }
    if (this.#phase === Phase.LIVE) return this.#changePrompt();
    if (this.#phase === Phase.READY) return this.#start();
    if (this.#phase === Phase.WAKING) {
      this.#startWhenWarm = true;
      this.#note("It begins as soon as the model is warm.");
    }
  }

  #start() {
    const prompt = this.#prompt.text;
    const seed = Number.parseInt(byId("seed").value, 10);
    const wish = { prompt, format: "m4s", seed: seed >= 0 ? seed : randomSeed(), streaming_buffer_seconds: this.#bufferSeconds, memory: true };
    if (byId("model").value) wish.model = byId("model").value;
    const request = this.#watching ? { type: "session.watch", session_id: this.#watching, format: "m4s" } : wish;
    byId("trouble").hidden = true;
    this.#startWhenWarm = false;
    this.#shown = prompt;
    this.#pending.clear();
    this.#chunks = 0;
    this.#hitch = "";
    this.#askedAt = performance.now();
    this.#readout.clear();
    this.#camera.reset(CAMERA_WORDS.test(prompt) ? null : 0);
    this.#setPhase(Phase.OPENING);
    if (!this.#watching) this.#writeHash(request);
    leaveWords();
    this.#open(request);
  }

  #open(request) {
    const session = new LiveSession();
    this.#session = session;
    const on = (type, handle) => session.addEventListener(type, ({ detail }) => this.#session === session && handle(detail));
    on("start", (message) => this.#accepted(message));
    on("chunk", ({ metadata, data }) => this.#chunk(metadata, data));
    on("queued", (message) => this.#pending.has(message.event_id) && this.#heard(message));
    on("applied", ({ event_id }) => this.#applied(event_id));
    on("waiting", ({ position }) => this.#stumble("Waiting for a place", placeInLine(position)));
    on("interrupted", () => this.#stumble("A moment, please", "The model was lost and is started again; the stream goes on by itself."));
    on("leaving", () => this.#stumble("Reconnecting", LEAVING));
    on("reconnecting", () => this.#hitch === "Reconnecting" || this.#stumble("Reconnecting", "The connection broke; the stream goes on by itself."));
    on("resumed", () => this.#cameBack());
    on("done", (message) => this.#done(message));
    on("trouble", (trouble) => (trouble.fatal ? this.#fail(trouble) : this.#refused(trouble)));
    on("closed", () => (this.#phase === Phase.STOPPING || !this.#chunks) && this.#rest());
    this.#connect(session, request);
  }

  // A server with keys gives a ticket for each socket.
  async #connect(session, request) {
    const pass = async () => (hasKey() ? ticket() : null);
    try {
      await session.open(request, () => this.#player.playhead, pass);
    } catch (trouble) {
      if (this.#session !== session) return;
      if (trouble.code === "invalid_key") this.#keyForm.ask();
      this.#fail(trouble);
    }
  }

  #heard({ unknown_words = [] }) {
    this.#strangers = unknown_words;
    this.#note(leftOut(unknown_words) || (this.#paused ? "Heard. It shows when you go on." : "Heard. It shows with the next pictures."));
  }

  #accepted({ mime = FALLBACK_MIME, config = {}, unknown_words = [], session_id = "" }) {
    this.#sessionId = session_id;
    this.#strangers = unknown_words;
    if (!canPlay(mime)) {
      this.#session.abandon();
      return this.#fail({ code: "unsupported_video", message: mime });
    }
    this.#fps = config.fps ?? this.#fps;
    showAspect(config);
    byId("seed").placeholder = config.seed ?? "new each time";
    byId("stage").classList.remove("kept");
    this.#player.begin(mime);
    this.#memory.begin(config);
  }

  // No pictures come for a while, and nobody has to do anything about it: the last ones go on playing.
  #stumble(title, text) {
    this.#hitch = title;
    this.#say(title);
    this.#note(text);
    if (this.#phase === Phase.OPENING) byId("wait-text").textContent = text;
  }

  // While it is paused no picture comes to say that all is well.
  #cameBack() {
    this.#stumble("Back again", "Connected again; the next pictures are on their way.");
    if (this.#paused) this.#recovered();
  }

  #recovered() {
    this.#hitch = "";
    this.#sayState();
    if (this.#phase === Phase.OPENING) byId("wait-text").textContent = STATUS.opening;
    this.#note(this.#phase === Phase.LIVE ? this.#hint : "");
  }

  // The big button, the picture and the space bar.
  #playOrPause() {
    if (this.#phase !== Phase.LIVE) return this.#running || this.#submit();
    this.#setPaused(!this.#paused);
    if (this.#paused) this.#player.pause();
    else this.#player.resume();
    if (!this.#watching) this.#session.pause(this.#paused);
    this.#sayState();
    if (!this.#hitch) this.#note(this.#hint);
  }

  #setPaused(paused) {
    this.#paused = paused;
    document.body.classList.toggle("paused", paused);
    byId("pause").textContent = paused ? "Go on" : "Pause";
    byId("begin").setAttribute("aria-label", paused ? "Go on" : "Play");
    byId("begin").hidden = !(paused || this.#phase === Phase.READY);
  }

  get #hint() {
    if (this.#watching) return "You look on at somebody's picture.";
    return this.#paused ? "Nothing is painted meanwhile. Space goes on." : "Change the words and press Enter.";
  }

  #chunk(metadata, data) {
    this.#chunks++;
    if (this.#hitch) this.#recovered();
    if (metadata.num_frames) this.#chunkSeconds = metadata.num_frames / this.#fps;
    if (data.byteLength) this.#player.append(data, this.#chunkSeconds);
    const stats = metadata.stats ?? {};
    this.#readout.chunk(stats, this.#chunkSeconds);
    this.#memory.chunk(stats);
    if (this.#watching && stats.prompt) this.#prompt.text = stats.prompt;
    if (stats.camera) this.#cameraControls.show(stats.camera.speed ?? 0);
  }

  #firstPicture() {
    if (this.#phase !== Phase.OPENING) return;
    this.#readout.firstPicture((performance.now() - this.#askedAt) / 1000);
    this.#setPhase(Phase.LIVE);
    if (this.#strangers.length) this.#note(leftOut(this.#strangers));
    byId("stage").classList.add("kept");
    this.#ambient.start();
  }

  #changePrompt(camera) {
    const prompt = this.#prompt.text;
    if (prompt === this.#shown && camera === undefined) return leaveWords();
    const id = this.#session.interact({ prompt, camera });
    if (!id) return;
    this.#shown = prompt;
    this.#pending.set(id, prompt);
    if (camera === undefined && CAMERA_WORDS.test(prompt)) this.#camera.reset(null);
    this.#note(this.#paused ? "It shows when you go on." : "On its way.");
    this.#refreshSend();
    leaveWords();
  }

  #applied(eventId) {
    this.#camera.applied(eventId);
    if (this.#pending.delete(eventId) && !this.#pending.size) this.#note(leftOut(this.#strangers) || "The new words are in the picture.");
  }

  // The server did not take a change; the stream goes on.
  #refused(trouble) {
    this.#pending.clear();
    this.#note("");
    this.#trouble(trouble);
  }

  #steer(speed) {
    if (this.#phase === Phase.LIVE && !this.#paused && !this.#watching) this.#camera.want(speed);
  }

  #chooseLight(light) {
    this.#prompt.text = withLight(this.#prompt.text, light);
    // The camera goes on as it is: its words in the prompt are not meant anew.
    if (this.#phase === Phase.LIVE) this.#changePrompt(this.#camera.speed === null ? undefined : { speed: this.#camera.speed });
  }

  #stop() {
    if (!this.#running) return;
    this.#hitch = "";
    this.#setPhase(Phase.STOPPING);
    this.#player.halt();
    this.#session.stop();
  }

  #done({ reason }) {
    this.#player.finish();
    if (reason === "server_shutdown") this.#trouble({ code: "shutting_down" });
    else if (this.#watching) this.#trouble({ code: "not_watchable" });
  }

  // The stream is over: the last picture stays.
  #rest() {
    this.#ambient.stop();
    this.#memory.end();
    this.#player.halt();
    this.#session = null;
    this.#hitch = "";
    this.#pending.clear();
    this.#cameraControls.show(0);
    this.#setPhase(Phase.READY);
  }

  #fail(trouble) {
    if (this.#phase === Phase.STOPPING) return this.#rest();
    if (this.#watching && trouble.code === "unknown_session") trouble = { code: "not_watchable" };
    this.#rest();
    this.#trouble(trouble);
    this.#setPhase(Phase.WAKING);
    this.#watchReadiness();
  }

  // ---- what the page shows

  #setPhase(phase) {
    this.#phase = phase;
    document.body.dataset.phase = phase;
    this.#setPaused(false);
    this.#sayState();
    byId("stop").hidden = !(this.#running || phase === Phase.STOPPING);
    byId("pause").hidden = byId("share").hidden = phase !== Phase.LIVE;
    byId("wait").hidden = phase !== Phase.WAKING && phase !== Phase.OPENING;
    if (phase === Phase.OPENING) byId("wait-text").textContent = "Painting the first picture";
    if (phase === Phase.READY) this.#note("Press Enter to begin.");
    if (phase === Phase.LIVE) this.#note(this.#hint);
    this.#refreshSend();
  }

  #refreshSend() {
    const live = this.#phase === Phase.LIVE;
    const send = byId("send");
    send.textContent = live ? "Change" : "Play";
    send.disabled = this.#phase === Phase.OPENING || this.#phase === Phase.STOPPING || (live && this.#prompt.text === this.#shown);
  }

  #promptChanged(text) {
    this.#lights.show(lightIn(text));
    this.#refreshSend();
  }

  #sayState() {
    const live = this.#watching ? "Looking on" : STATUS.live;
    this.#say(this.#hitch || (this.#paused ? "Paused" : this.#phase === Phase.LIVE ? live : STATUS[this.#phase]));
  }

  #say(text) {
    const status = byId("status");
    if (status.textContent !== text) status.textContent = text;
  }

  #note(text) {
    byId("prompt-note").textContent = text;
  }

  #trouble(trouble) {
    const { title, hint, detail } = explain(trouble);
    byId("trouble-title").textContent = `${title}.`;
    byId("trouble-hint").textContent = hint;
    byId("trouble-detail").textContent = sentence(detail);
    byId("trouble").hidden = false;
  }

  #readHash() {
    const hash = new URLSearchParams(location.hash.slice(1));
    if (hash.get("prompt")) this.#prompt.text = hash.get("prompt");
    if (hash.get("seed")) byId("seed").value = hash.get("seed");
    if (hash.get("watch")) this.#lookOn(hash.get("watch"));
  }

  #lookOn(session) {
    this.#watching = session;
    this.#startWhenWarm = true;
    document.body.classList.add("watching");
    byId("prompt").readOnly = true;
  }

  // A link to this stream for others to look on.
  async #share() {
    const link = new URL(`#watch=${this.#sessionId}`, location.href).href;
    try {
      await navigator.clipboard.writeText(link);
      this.#note("The link is copied: who opens it looks on.");
    } catch {
      this.#note(`Who opens this link looks on: ${link}`);
    }
  }

  // The address always leads back to this place: the same words, the same seed.
  #writeHash({ prompt, seed }) {
    history.replaceState(null, "", `#${new URLSearchParams({ prompt, seed })}`);
  }
}

function showAspect({ width, height }) {
  if (width && height) document.documentElement.style.setProperty("--aspect", (width / height).toFixed(4));
}

// From the words to the picture, where the arrows are the camera's; a button that was pressed keeps the focus.
function leaveWords() {
  const stage = byId("stage");
  const at = document.activeElement;
  if (at !== document.body && !at.matches("#prompt, #send, #begin, #stage")) return;
  stage.focus({ preventScroll: true });
  stage.scrollIntoView({ block: "nearest" });
}

function placeInLine(position) {
  return position === 1 ? "All places are taken. You are next." : `All places are taken. You are number ${position} in line.`;
}

function randomSeed() {
  return Math.floor(Math.random() * 2 ** 31);
}

function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("stage").requestFullscreen?.();
}

/** What to say about words that the model does not know; "" when it knows them all. */
function leftOut(words) {
  const named = words.slice(0, 4).map((word) => `“${word}”`).join(", ");
  return words.length ? `I do not know ${named}${words.length > 4 ? " and more" : ""}; the rest is in the picture.` : "";
}

new App().run();
