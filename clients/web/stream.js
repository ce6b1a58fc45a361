// One stream of the page: its session, what is changed in it, and the stream beside it that is compared with it.

import { byId } from "./dom.js";
import { hasKey } from "./key.js";
import { Rival } from "./rival.js";
import { SceneLog, asInteractions, sceneHash } from "./scene.js";
import { Screen } from "./screen.js";
import { ticket, whyAway, whyNoSocket } from "./server.js";

/**
 * What a stream tells the page.
 * @typedef {object} Told
 * @property {(type: string, event?: object) => void} dispatch an event of state.js
 * @property {(config: import("./client/messages.js").SessionConfig) => void} accepted
 * @property {(stats: import("./client/messages.js").ServedStats) => void} chunk
 * @property {(id: string) => void} applied a change, by its event id
 * @property {(trouble: import("./errors.js").Trouble) => void} refused a change; the stream goes on
 * @property {(trouble: import("./errors.js").Trouble) => void} failed the stream, which is over
 * @property {(trouble: import("./errors.js").Trouble) => void} rivalFailed the stream beside it, which is over; this one goes on
 * @property {(reason: string) => void} done
 * @property {() => void} closed
 */

export class Stream {
  screen = new Screen();
  #told;
  #rival;
  #log = new SceneLog();
  /** @type {import("./client/protocol.js").LiveSession | null} */
  #session = null;
  #begun = { prompt: "", seed: "", image: "" }; // what it began with
  /** @type {{id: string, chunk: number}[]} */
  #coming = []; // changes whose chunk is not on display yet
  #mime = "";
  #hurry = -1; // up to this chunk the scene of a link is only brought back

  /** @param {Told} told */
  constructor(told) {
    this.#told = told;
    this.#rival = new Rival(this.screen.player, told.rivalFailed);
    this.screen.player.addEventListener("progress", () => this.#progress());
  }

  /**
   * Ask for a stream: with the `changes` of a link, which is only brought back `until` that chunk, and with a stream
   * under `policy` beside it, where that is not "".
   * @param {import("./client/protocol.js").Request} request
   * @param {{changes?: import("./scene.js").Change[], until?: number, policy?: string}} [more]
   */
  start(request, { changes = [], until = -1, policy = "" } = {}) {
    this.#begun = { prompt: request.prompt ?? "", seed: String(request.seed ?? ""), image: String(request.image ?? "") };
    this.#hurry = until;
    this.#coming = [];
    this.screen.clear();
    this.#log.clear();
    this.#log.begin(changes);
    const whole = changes.length ? { ...request, interactions: asInteractions(changes) } : request;
    this.#open(whole);
    if (policy) this.#rival.start(whole, policy, this.#pass);
  }

  /** @param {import("./client/protocol.js").Request} request */
  #open(request) {
    const { dispatch, refused, failed, closed } = this.#told;
    const { player, timeline } = this.screen;
    // What is only brought back counts as played, so that the server does not wait for it.
    const position = () => (timeline.next <= this.#hurry ? player.received : player.playhead);
    const session = this.screen.element.start(request, { position, pass: this.#pass, why: whyNoSocket });
    this.#session = session;
    /** @type {import("./client/protocol.js").LiveSession["on"]} */
    const on = (type, handle) => session.on(type, (detail) => this.#session === session && handle(detail));
    on("start", (message) => this.#accepted(message));
    on("chunk", ({ metadata, data }) => this.#chunk(metadata, data));
    on("queued", ({ event_id, warnings }) => dispatch("heard", { id: event_id, warnings }));
    on("applied", ({ event_id, chunk_index }) => this.#applied(event_id, chunk_index));
    on("waiting", ({ position: place, seconds }) => dispatch("inLine", { position: place, seconds }));
    for (const type of /** @type {const} */ (["interrupted", "leaving", "resumed"])) on(type, () => dispatch(type));
    on("reconnecting", ({ attempt }) => this.#lost(attempt));
    on("done", ({ reason }) => this.#done(reason));
    on("trouble", (trouble) => (trouble.fatal ? failed(trouble) : refused(trouble)));
    on("closed", closed);
  }

  // One try may fail for any reason; from the second on the cause is looked for.
  /** @param {number} attempt */
  async #lost(attempt) {
    this.#told.dispatch("reconnecting");
    if (attempt === 2) this.#told.dispatch("cause", { code: await whyAway() });
  }

  // A server with keys gives a ticket for each socket.
  #pass = async () => (hasKey() ? ticket() : null);

  /** @param {import("./client/messages.js").VideoStart} start */
  #accepted({ mime, config, warnings, session_id }) {
    this.#told.dispatch("accepted", { sessionId: session_id, warnings });
    this.#mime = mime;
    this.screen.begin(config);
    this.#told.accepted(config);
  }

  /** @param {import("./client/messages.js").ChunkMetadata} metadata @param {ArrayBuffer} data */
  #chunk(metadata, data) {
    this.#told.dispatch("chunk");
    this.screen.chunk(metadata, data);
    if (this.#rival.running) byId("own-name").textContent = metadata.stats.cache_policy;
    this.#told.chunk(metadata.stats);
  }

  /** @param {string} id @param {number} chunk */
  #applied(id, chunk) {
    this.#log.applied(id, chunk);
    this.#told.applied(id);
    this.#coming.push({ id, chunk });
  }

  // New words count as shown when their first chunk is on display.
  #progress() {
    this.#session?.report();
    const shown = Math.min(this.screen.playing, this.screen.timeline.next - 1);
    const arrived = this.#coming.filter(({ chunk }) => chunk <= shown);
    this.#coming = this.#coming.filter(({ chunk }) => chunk > shown);
    for (const { id } of arrived) this.#told.dispatch("applied", { id });
  }

  /** @param {string} reason */
  #done(reason) {
    this.#told.done(reason);
  }

  /**
   * A change for this stream, and for the one beside it at the same chunk; the event's id, or null.
   * @param {{prompt?: string, camera?: {speed?: number, cut_to?: number}, at?: number}} change
   */
  tell({ at, ...change }) {
    const at_chunk = at ?? (this.#rival.running ? this.#rival.chunkForBoth(this.screen.timeline.next) : undefined);
    const id = this.#session?.interact({ ...change, at_chunk }) ?? null;
    this.#log.told(id, change);
    this.#rival.interact({ ...change, at_chunk });
    return id;
  }

  /** The picture stands still or goes on; one who only looks on (`own` false) stops nobody's stream. @param {boolean} paused */
  pause(paused, own = true) {
    if (paused) this.screen.player.pause();
    else this.screen.player.resume();
    if (own) this.#session?.pause(paused);
    this.#rival.pause(paused);
  }

  /** End after the current chunk. */
  stop() {
    this.screen.player.halt();
    this.#session?.stop();
  }

  /** End at once, waiting for nothing. */
  abandon() {
    this.#session?.abandon();
  }

  /** It is over: the last picture stays. */
  rest() {
    this.#rival.stop();
    this.screen.end();
    this.#session = null;
  }

  /**
   * What it began with; its address for the same again, null where one cannot hold that; and the order of a job that makes
   * it once more and goes on for so many seconds.
   * @param {import("./scene.js").Maker} maker
   * @param {number} more seconds
   */
  scene(maker, more) {
    const { prompt, seed, image } = this.#begun;
    const { changes } = this.#log;
    const hash = image ? null : sceneHash({ prompt, seed, maker, changes, until: this.screen.playing });
    /** @type {import("./scene.js").JobOrder} */
    const job = { prompt, seed: Number(seed), seconds: Math.round(this.screen.player.position + more), interactions: asInteractions(changes) };
    if (maker.model) job.model = maker.model;
    if (image) job.input_reference = image;
    return { seed, link: hash && new URL(hash, location.href).href, job, mime: this.#mime };
  }
}
