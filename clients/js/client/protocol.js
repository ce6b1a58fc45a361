// The live protocol, WS /v1/realtime/video: JSON control, and one binary frame after each video.chunk_metadata.

export const PLAYBACK_EVERY_MS = 100;
export const PING_EVERY_MS = 20_000;
const STOP_PATIENCE_MS = 10_000;
const FIRST_DELAY_MS = 250; // before the second attempt to reconnect; doubles with each
const LONGEST_DELAY_MS = 4_000;
const COME_BACK_WITHIN_MS = 600_000; // about as long as a server keeps a session
const BROKEN = [1005, 1006, 1014]; // close codes of broken connections
const LEFT = [1001, 1012]; // the server stopped; another may have the session

/**
 * @typedef {{code: string, message?: string, param?: string | null, retryable?: boolean}} Refusal
 * @typedef {Record<string, any>} Request session.start without its type, or session.watch
 * @typedef {{prompt?: string, camera?: {speed?: number, cut_to?: number}, at_chunk?: number}} Interaction
 * @typedef {() => Promise<string | null>} Pass returns a ticket for each socket, for servers with keys
 * @typedef {object} Place
 * @property {string} [server] URL of the server; default: the page's own
 * @property {() => Promise<Refusal | null>} [why] finds out over HTTP why no socket opens, since browsers do not say
 */

/**
 * The events of a session and their details.
 * @typedef {object} LiveEvents
 * @property {import("./messages.js").VideoStart} start
 * @property {{metadata: import("./messages.js").ChunkMetadata, data: ArrayBuffer}} chunk
 * @property {import("./messages.js").InteractionQueued} queued
 * @property {import("./messages.js").InteractionApplied} applied
 * @property {import("./messages.js").SessionQueued} waiting for a place
 * @property {import("./messages.js").SessionInterrupted} interrupted
 * @property {{attempt: number}} reconnecting
 * @property {import("./messages.js").SessionDone} leaving the server is restarting and keeps the session
 * @property {import("./messages.js").VideoStart} resumed
 * @property {import("./messages.js").SessionDone} done
 * @property {Refusal & {fatal: boolean}} trouble
 * @property {{clean: boolean}} closed
 */

/** The WebSocket URL next to the page or at a server; also works behind a path prefix. @param {string} [server] */
export function liveAddress(server) {
  const url = new URL("v1/realtime/video", baseOf(server));
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

/** The base URL of a server's paths. @param {string} [server] */
export function baseOf(server) {
  if (server === undefined) return document.baseURI;
  return new URL(server.endsWith("/") ? server : `${server}/`, globalThis.document?.baseURI).href;
}

/**
 * One live session. A broken connection is reopened, and the session resumes after the last chunk received whole. Its events
 * are CustomEvents with the details of LiveEvents.
 */
export class LiveSession extends EventTarget {
  #address;
  #why;
  /** @type {WebSocket | null} */
  #socket = null;
  #position = () => 0;
  /** @type {import("./messages.js").ChunkMetadata | null} of the next binary message */
  #metadata = null;
  /** @type {number[]} */
  #timers = [];
  #events = 0;
  #begun = false;
  #finished = false;
  #stopping = false;
  #paused = false;
  /** @type {Refusal | null} */
  #lastTrouble = null;
  /** @type {Pass} */
  #pass = async () => null;
  /** @type {{session_id: string, token: string} | null} of a session that can be resumed */
  #key = null;
  /** @type {Request | null} of a watcher */
  #watching = null;
  #lastChunk = -1; // index of the newest chunk received whole
  /** @type {Map<string, object>} event id -> unanswered change, sent again over a new connection */
  #unheard = new Map();
  #lostAt = 0; // when the connection broke; 0 while there is one
  #attempts = 0;

  /** @param {Place} [place] */
  constructor({ server, why = async () => null } = {}) {
    super();
    this.#address = liveAddress(server);
    this.#why = why;
  }

  /**
   * Open the socket and request a stream. `position` returns the playhead in seconds. `pass` returns (a promise of) a ticket
   * for each socket, for servers with keys. The ticket is sent as a subprotocol, because URLs end up in logs; the server
   * selects the other subprotocol. Failing to get a ticket is a fatal trouble. A request of type session.watch watches
   * another viewer's session.
   * @param {Request} request
   * @param {() => number} position
   * @param {Pass} [pass]
   */
  async open(request, position, pass = async () => null) {
    this.#position = position;
    this.#pass = pass;
    this.#watching = request.type === "session.watch" ? request : null;
    try {
      await this.#dial({ type: "session.start", ...request });
    } catch (error) {
      const { code, message, param } = /** @type {Refusal} */ (error);
      this.fail({ code, message, param });
    }
  }

  /**
   * Call `handle` with the detail of every event of this type.
   * @template {keyof LiveEvents} T
   * @param {T} type
   * @param {(detail: LiveEvents[T]) => unknown} handle
   */
  on(type, handle) {
    this.addEventListener(type, (event) => handle(/** @type {CustomEvent<LiveEvents[T]>} */ (event).detail));
  }

  /** @param {object} first message of the connection */
  async #dial(first) {
    const ticket = await this.#pass();
    if (this.#finished) return;
    const socket = new WebSocket(this.#address, ticket ? ["pafu", `pafu-ticket.${ticket}`] : []);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => this.#begin(first));
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("close", (event) => this.#closed(event));
  }

  /**
   * Steer the stream; without a connection, the change is sent after reconnecting. Returns the event's id, or null. The next
   * chunk, or chunk `at_chunk`, shows the change.
   * @param {Interaction} change
   * @returns {string | null}
   */
  interact({ prompt, camera, at_chunk }) {
    const event = { ...(prompt === undefined ? {} : { prompt }), ...(camera === undefined ? {} : { multi_modal_data: { camera } }) };
    const event_id = `evt_${++this.#events}`;
    const when = at_chunk === undefined ? {} : { at_chunk };
    const message = { type: "session.interaction", interaction: { event_id, event, ...when } };
    if (!this.#send(message) && !this.#key) return null;
    this.#unheard.set(event_id, message);
    return event_id;
  }

  /** Stop generation until `pause(false)`, also across reconnects. */
  pause(paused = true) {
    this.#paused = paused;
    this.#send({ type: paused ? "session.pause" : "session.resume" });
  }

  /** Report the playhead now: in a hidden page timers are throttled, but media events are not. */
  report() {
    if (this.#begun && !this.#finished && !this.#lostAt) this.#send({ type: "session.playback", position_seconds: this.#position() });
  }

  /** Finish after the current chunk; the socket is dropped if the server does not answer. */
  stop() {
    this.#stopping = true;
    if (!this.#send({ type: "session.stop" })) return this.abandon();
    this.#timers.push(setTimeout(() => this.abandon(), STOP_PATIENCE_MS));
  }

  /** Drop the session and the connection at once. */
  abandon() {
    if (!this.#finished && !this.#stopping) this.#send({ type: "session.stop" });
    this.#finished = true;
    if (!this.#socket || this.#socket.readyState === WebSocket.CLOSED) return this.#closed({});
    this.#socket.close(1000);
  }

  /** End the session because of a failure on this side. @param {Refusal} trouble */
  fail(trouble) {
    this.#emit("trouble", { ...trouble, fatal: true });
    this.abandon();
  }

  /** @param {object} first */
  #begin(first) {
    this.#send(first);
    this.#timers.push(setInterval(() => this.report(), PLAYBACK_EVERY_MS));
    this.#timers.push(setInterval(() => this.#send({ type: "session.ping" }), PING_EVERY_MS));
  }

  /** @param {object} message @returns {boolean} whether it was sent */
  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** @param {string | ArrayBuffer} data */
  #receive(data) {
    if (typeof data !== "string") return this.#receiveChunk(data);
    /** @type {import("./messages.js").ServerMessage} */
    const message = JSON.parse(data);
    switch (message.type) {
      case "video.start":
        return this.#started(message);
      case "session.queued":
        return this.#emit("waiting", message);
      case "session.interrupted":
        return this.#emit("interrupted", message);
      case "video.chunk_metadata":
        this.#metadata = message;
        return;
      case "session.interaction.queued":
        this.#unheard.delete(message.event_id);
        return this.#emit("queued", message);
      case "session.interaction.applied":
        return this.#emit("applied", message);
      case "session.done":
        if (message.resumable && (this.#key || this.#watching) && !this.#stopping) return this.#emit("leaving", message);
        this.#finished = true;
        return this.#emit("done", message);
      case "error":
        return this.#trouble(message);
    }
  }

  /** @param {import("./messages.js").VideoStart} message */
  #started(message) {
    const again = this.#begun;
    this.#begun = true;
    this.#lostAt = this.#attempts = 0;
    this.#lastTrouble = null;
    if (message.resume_token) this.#key = { session_id: message.session_id, token: message.resume_token };
    if (!again) return this.#emit("start", message);
    this.#emit("resumed", message);
    this.report();
    if (this.#paused) this.pause();
    this.#unheard.forEach((change) => this.#send(change));
  }

  /** @param {ArrayBuffer} data */
  #receiveChunk(data) {
    const metadata = this.#metadata;
    this.#metadata = null;
    this.#lastTrouble = null; // the stream continued: that error was not its end
    if (!metadata || (this.#watching && metadata.transport_chunk_index <= this.#lastChunk)) return;
    this.#lastChunk = metadata.transport_chunk_index;
    this.#emit("chunk", { metadata, data });
  }

  // Only a closing socket shows that an error ended the session: a refused interaction does not.
  /** @param {import("./messages.js").Error} message */
  #trouble({ code, message, param, retryable, event_id }) {
    if (event_id) this.#unheard.delete(event_id);
    if (code === "event_id_conflict") return; // sent twice, received once
    if (this.#lostAt) return void (this.#lastTrouble = { code, message, param, retryable });
    this.#lastTrouble = { code, message, param };
    this.#emit("trouble", { ...this.#lastTrouble, fatal: !this.#begun });
  }

  /** @param {{code?: number, reason?: string}} event */
  #closed({ code, reason }) {
    this.#timers.forEach(clearTimeout);
    this.#timers = [];
    this.#metadata = null;
    if (this.#mayComeBack(code)) return this.#comeBack();
    const clean = this.#finished;
    this.#finished = true;
    if (!clean && this.#begun) {
      const lost = { code: closeName(code), message: reason || "the connection ended before the stream did" };
      this.#emit("trouble", { ...(this.#lastTrouble ?? lost), fatal: true });
    } else if (!clean && !this.#lastTrouble) {
      return void this.#neverOpened({ code: closeName(code), message: reason || "the server did not open a stream" });
    }
    this.#emit("closed", { clean });
  }

  // Browsers hide the answer to a refused handshake, so ask again over HTTP.
  /** @param {Refusal} closed */
  async #neverOpened(closed) {
    const why = closed.code === "connection_lost" ? await this.#why() : null;
    this.#emit("trouble", { ...(why ?? closed), fatal: true });
    this.#emit("closed", { clean: false });
  }

  // ---- reconnecting

  /** @param {number} [code] */
  #mayComeBack(code) {
    if (this.#finished || this.#stopping || !(this.#key || (this.#watching && this.#begun))) return false;
    if (this.#lostAt) return performance.now() - this.#lostAt < COME_BACK_WITHIN_MS && (this.#lastTrouble?.retryable ?? true);
    return BROKEN.includes(code ?? 0) || (LEFT.includes(code ?? 0) && !this.#lastTrouble);
  }

  // The first attempt at once, then with growing delays.
  #comeBack() {
    this.#lostAt ||= performance.now();
    this.#lastTrouble = null;
    const delay = this.#attempts ? Math.min(FIRST_DELAY_MS * 2 ** (this.#attempts - 1), LONGEST_DELAY_MS) : 0;
    this.#emit("reconnecting", { attempt: ++this.#attempts });
    this.#timers.push(setTimeout(() => this.#resume(), delay * (0.75 + Math.random() / 2)));
  }

  async #resume() {
    try {
      await this.#dial(this.#watching ?? { type: "session.resume", ...this.#key, last_chunk_index: this.#lastChunk });
    } catch (error) {
      const trouble = /** @type {Refusal} */ (error);
      this.#lastTrouble = { ...trouble, retryable: !["invalid_key", "missing_key"].includes(trouble.code) };
      this.#closed({});
    }
  }

  /**
   * @template {keyof LiveEvents} T
   * @param {T} type
   * @param {LiveEvents[T]} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {number} [code] */
function closeName(code = 0) {
  /** @type {Record<number, string>} */
  const names = { 1001: "shutting_down", 1011: "internal_error", 1012: "worker_failed", 1013: "session_rejected" };
  return names[code] ?? "connection_lost";
}
