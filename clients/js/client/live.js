// A live stream as an async iterator of chunks, in browsers and Node.

import { initSegment } from "./boxes.js";
import { PafuError } from "./errors.js";
import { Server } from "./http.js";
import { LiveSession } from "./protocol.js";

/**
 * @typedef {object} Options beside the fields of session.start
 * @property {string} [key] the API key; a page should use `pass` and get tickets from its backend
 * @property {import("./protocol.js").Pass} [pass]
 * @property {boolean} [realtime] true (the default): play in real time; false: as fast as the server generates
 * @property {<T extends keyof import("./protocol.js").LiveEvents>(type: T, detail: import("./protocol.js").LiveEvents[T]) => void} [onEvent]
 *
 * @typedef {{metadata: import("./messages.js").ChunkMetadata, data: Uint8Array}} Chunk
 */

/**
 * Open a stream: `const stream = await connect(url, { prompt }); for await (const { data } of stream) ...`. A broken
 * connection is reopened; leaving the loop stops the session. Rejects with a PafuError.
 * @param {string | undefined} url of the server; undefined: the page's own
 * @param {Omit<import("./messages.js").SessionStart, "type"> & Options} options
 */
export function connect(url, options) {
  return opened(url, options);
}

/**
 * Watch another viewer's session from its newest chunk on; watchers cannot steer.
 * @param {string | undefined} url
 * @param {string} session_id
 * @param {Options} [options]
 */
export function watch(url, session_id, options = {}) {
  return opened(url, { type: "session.watch", session_id, ...options });
}

/** @param {string | undefined} url @param {Record<string, any> & Options} options */
async function opened(url, { key, pass, realtime = true, onEvent, ...request }) {
  const stream = new Stream(new LiveSession({ server: url }), realtime, onEvent);
  const server = new Server(url, { key });
  return stream.open(request, pass ?? (() => server.ticket()));
}

/** A running stream. Joined in order, the bytes of its chunks are a playable MP4. */
export class Stream {
  #session;
  #realtime;
  /** @type {Chunk[]} not read yet */
  #chunks = [];
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {PafuError | null} */
  #failure = null;
  #over = false;
  #shown = 0; // seconds of media read
  #began = 0;
  #head = new Uint8Array();
  /** @type {import("./messages.js").VideoStart | null} */
  #start = null;
  /** @type {import("./messages.js").SessionDone | null} how it ended, null until then */
  done = null;

  /** @param {LiveSession} session @param {boolean} realtime @param {Options["onEvent"]} [onEvent] */
  constructor(session, realtime, onEvent) {
    this.#session = session;
    this.#realtime = realtime;
    session.on("start", (start) => (this.#start = start));
    session.on("chunk", ({ metadata, data }) => this.#chunks.push({ metadata, data: this.#whole(new Uint8Array(data)) }));
    session.on("done", (done) => (this.done = done));
    session.on("trouble", (trouble) => trouble.fatal && (this.#failure = new PafuError(trouble)));
    session.on("closed", () => (this.#over = true));
    for (const type of EVENTS) {
      session.on(type, (detail) => {
        onEvent?.(type, /** @type {any} */ (detail));
        this.#waiting.splice(0).forEach((wake) => wake());
      });
    }
  }

  /** The server's video.start. */
  get start() {
    if (!this.#start) throw new PafuError({ code: "not_started", message: "the stream is not open yet" });
    return this.#start;
  }

  /** @param {Record<string, any>} request @param {import("./protocol.js").Pass} pass */
  async open(request, pass) {
    void this.#session.open(request, () => this.#playhead(), pass);
    while (!this.#start && !this.#over) await this.#news();
    if (!this.#start) throw this.#failure;
    return this;
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (let chunk = await this.next(); chunk; chunk = await this.next()) yield chunk;
    } finally {
      this.close();
    }
  }

  /** The next chunk, or null when the stream ended normally. @returns {Promise<Chunk | null>} */
  async next() {
    while (!this.#chunks.length && !this.#over) await this.#news();
    const chunk = this.#chunks.shift();
    if (!chunk) {
      if (this.#failure && !this.done) throw this.#failure;
      return null;
    }
    this.#began ||= performance.now();
    this.#shown += chunk.metadata.num_frames / this.start.config.fps;
    this.#session.report();
    return chunk;
  }

  /** Change the prompt or the camera from the next chunk on; returns the change's id. @param {import("./protocol.js").Interaction} change */
  interact(change) {
    return this.#session.interact(change);
  }

  /** Stop generation until `resume`. */
  pause() {
    this.#session.pause();
  }

  resume() {
    this.#session.pause(false);
  }

  /** Stop after the current chunk; keep reading what is already generated. */
  stop() {
    this.#session.stop();
  }

  /** End it at once. */
  close() {
    if (!this.#over) this.#session.abandon();
  }

  #news() {
    return new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
  }

  // Chunks that were read count as played: in real time, or at once.
  #playhead() {
    return this.#realtime ? Math.min(this.#shown, (performance.now() - this.#began) / 1000) : this.#shown;
  }

  // Every connection starts with the MP4 head; keep only the first, so that joined chunks are one file.
  /** @param {Uint8Array} data */
  #whole(data) {
    if (!this.#head.length) this.#head = new Uint8Array(initSegment(data.buffer));
    else if (data.length > this.#head.length && this.#head.every((byte, at) => data[at] === byte)) return data.subarray(this.#head.length);
    return data;
  }
}

const EVENTS = /** @type {const} */ ([
  "start",
  "chunk",
  "queued",
  "applied",
  "waiting",
  "interrupted",
  "reconnecting",
  "leaving",
  "resumed",
  "done",
  "trouble",
  "closed",
]);
