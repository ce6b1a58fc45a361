// A second stream for comparison: the same seed, prompt and camera under another cache policy, played in sync.

import { byId } from "./dom.js";
import { PafuPlayer } from "./client/player-element.js";
import { whyNoSocket } from "./server.js";

const AHEAD = 3; // chunks from now at which a change is in time for both streams
const IN_STEP = 0.25; // seconds that the playheads may differ
const EVERY_MS = 200;

/** `failed(trouble)` is called if the second stream ends by itself; the first one continues. */
export class Rival {
  #main;
  #element = byId("rival-player", PafuPlayer);
  #player = this.#element.player;
  #failed;
  /** @type {import("./client/protocol.js").LiveSession | null} */
  #session = null;
  #next = 0; // index of its next chunk
  #timer = 0;

  /**
   * @param {import("./client/player.js").Player} main the first stream's player
   * @param {(trouble: import("./errors.js").Trouble) => void} failed
   */
  constructor(main, failed) {
    this.#main = main;
    this.#failed = failed;
  }

  get running() {
    return this.#session !== null;
  }

  /**
   * Start `request` (the first stream's) under `policy`. `pass` as for LiveSession.open.
   * @param {import("./client/protocol.js").Request} request
   * @param {string} policy
   * @param {import("./client/protocol.js").Pass} pass
   */
  start(request, policy, pass) {
    const asked = { ...request, memory: false, extra_params: { cache: { policy } } };
    const session = (this.#session = this.#element.start(asked, { pass, why: whyNoSocket }));
    this.#next = 0;
    /** @type {import("./client/protocol.js").LiveSession["on"]} */
    const on = (type, handle) => session.on(type, (detail) => this.#session === session && handle(detail));
    on("chunk", ({ metadata }) => (this.#next = metadata.transport_chunk_index + 1));
    on("waiting", () => this.#giveUp({ code: "no_second_place" }));
    on("trouble", (trouble) => trouble.fatal && this.#giveUp(trouble.code === "session_rejected" ? { code: "no_second_place" } : trouble));
    this.#timer = setInterval(() => this.#keepStep(), EVERY_MS);
    document.body.classList.add("comparing");
    byId("rival-name").textContent = policy;
  }

  /** The earliest chunk that a change reaches in both streams; `next` is the first stream's next chunk. @param {number} next */
  chunkForBoth(next) {
    return Math.max(next, this.#next) + AHEAD;
  }

  /** @param {import("./client/protocol.js").Interaction} change */
  interact(change) {
    this.#session?.interact(change);
  }

  /** @param {boolean} paused */
  pause(paused) {
    if (!this.#session) return;
    if (paused) this.#player.pause();
    else this.#player.resume();
    this.#session.pause(paused);
  }

  /** End the second stream and remove its picture. */
  stop() {
    clearInterval(this.#timer);
    this.#session?.abandon();
    this.#session = null;
    this.#player.halt();
    this.#player.ahead = this.#main.ahead = 0;
    document.body.classList.remove("comparing");
  }

  /** @param {import("./errors.js").Trouble} trouble */
  #giveUp(trouble) {
    this.stop();
    this.#failed(trouble);
  }

  // The player that is ahead slows down until the other one catches up.
  #keepStep() {
    const apart = this.#main.position - this.#player.position;
    this.#main.ahead = apart > IN_STEP ? apart : 0;
    this.#player.ahead = -apart > IN_STEP ? -apart : 0;
  }
}
