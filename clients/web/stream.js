// The page's stream: its session, its changes, and a second stream for comparison.

import { byId } from "./dom.js";
import { hasKey } from "./key.js";
import { Rival } from "./rival.js";
import { SceneLog, asInteractions, sceneHash } from "./scene.js";
import { Screen } from "./screen.js";
import { ticket, whyAway, whyNoSocket } from "./server.js";

/**
 * The stream's callbacks.
 * @typedef {object} Told
 * @property {(type: string, event?: object) => void} dispatch an event of state.js
 * @property {(config: import("./client/messages.js").SessionConfig) => void} accepted
 * @property {(stats: import("./client/messages.js").ServedStats, replayed: boolean) => void} chunk `replayed`: from a link's changes
 * @property {(id: string) => void} applied a change, by its event id
 * @property {(trouble: import("./errors.js").Trouble) => void} refused a change; the stream continues
 * @property {(trouble: import("./errors.js").Trouble) => void} failed the stream has ended
 * @property {(trouble: import("./errors.js").Trouble) => void} rivalFailed the second stream has ended; this one continues
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
  #begun = { prompt: "", seed: "", image: "" }; // its start options
  /** @type {{id: string, chunk: number}[]} */
  #coming = []; // changes whose chunk is not displayed yet
  #mime = "";
  #hurry = -1; // up to this chunk a link's scene is only replayed

  /** @param {Told} told */
  constructor(told) {
    this.#told = told;
    this.#rival = new Rival(this.screen.player, told.rivalFailed);
    this.screen.player.addEventListener("progress", () => this.#progress());
  }

  /**
   * Start a stream, with the `changes` of a link (replayed up to chunk `until`), and with a second stream under `policy`
   * unless that is "".
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
    // Replayed chunks count as played, so that the server does not wait.
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

  // A first failed attempt may have any reason; after the second, look for the cause.
  /** @param {number} attempt */
  async #lost(attempt) {
    this.#told.dispatch("reconnecting");
    if (attempt === 2) this.#told.dispatch("cause", { code: await whyAway() });
  }

  // A server with keys needs a ticket for each socket.
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
    this.#told.chunk(metadata.stats, metadata.transport_chunk_index <= this.#hurry);
    if (this.#hurry > 0) this.#tellReplay(metadata.transport_chunk_index / this.#hurry);
  }

  /** @param {number} share of the link's scene that is here again */
  #tellReplay(share) {
    if (share < 1) this.#told.dispatch("note", { text: `Painting the link's scene again: ${Math.round(100 * share)} %.` });
    else if (share === 1) this.#told.dispatch("note", { text: "The link's scene is here again, and goes on." });
  }

  /** @param {string} id @param {number} chunk */
  #applied(id, chunk) {
    this.#log.applied(id, chunk);
    this.#told.applied(id);
    this.#coming.push({ id, chunk });
  }

  // A new prompt counts as shown when its first chunk is displayed.
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
   * Change this stream, and the second one at the same chunk; returns the event's id, or null.
   * @param {{prompt?: string, camera?: {speed?: number, cut_to?: number}, at?: number}} change
   */
  tell({ at, ...change }) {
    const at_chunk = at ?? (this.#rival.running ? this.#rival.chunkForBoth(this.screen.timeline.next) : undefined);
    const id = this.#session?.interact({ ...change, at_chunk }) ?? null;
    this.#log.told(id, change);
    this.#rival.interact({ ...change, at_chunk });
    return id;
  }

  /** Pause or resume; for a watcher (`own` false) this affects only the page, not the stream. @param {boolean} paused */
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

  /** End at once. */
  abandon() {
    this.#session?.abandon();
  }

  /** The stream has ended: the last picture stays. */
  rest() {
    this.#rival.stop();
    this.screen.end();
    this.#session = null;
  }

  /**
   * Its start options; its link, or null if a link cannot hold it; and the order of a job that generates it again and
   * continues for `more` seconds.
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
