// The live protocol, WS /v1/realtime/video: JSON control, and one binary frame after each video.chunk_metadata.

export const PLAYBACK_EVERY_MS = 100;
export const PING_EVERY_MS = 20_000;
const STOP_PATIENCE_MS = 4_000;

/** The WebSocket address next to the page, so that the page also works behind a path prefix. */
export function liveAddress(base = document.baseURI) {
  const url = new URL("v1/realtime/video", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

/**
 * One live session over one socket.
 *
 * Events (CustomEvent, `detail` in brackets): start [video.start], chunk [{metadata, data}], queued [message],
 * applied [message], done [session.done], trouble [{code, message, param, fatal}], closed [{clean}].
 */
export class LiveSession extends EventTarget {
  #socket = null;
  #position = null;
  #metadata = null;
  #timers = [];
  #events = 0;
  #begun = false;
  #finished = false;
  #lastTrouble = null;

  /**
   * Open the socket and ask for a stream. `position` gives the playhead in seconds whenever it is called; `ticket` is
   * for servers with keys. It goes as a subprotocol, since addresses end up in logs; the server answers with the other.
   */
  open(request, position, ticket = null) {
    this.#socket = new WebSocket(liveAddress(), ticket ? ["pafu", `pafu-ticket.${ticket}`] : []);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.addEventListener("open", () => this.#begin(request, position));
    this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
    this.#socket.addEventListener("close", (event) => this.#closed(event));
  }

  /** Steer the running stream; returns the event's id, or null when the socket is not open. */
  interact({ prompt, camera }) {
    const event = {};
    if (prompt !== undefined) event.prompt = prompt;
    if (camera !== undefined) event.multi_modal_data = { camera };
    const event_id = `evt_${++this.#events}`;
    return this.#send({ type: "session.interaction", interaction: { event_id, event } }) ? event_id : null;
  }

  /** Report the playhead now: timers nearly stand still in a hidden page, the media's own events do not. */
  report() {
    if (this.#begun && !this.#finished) this.#send({ type: "session.playback", position_seconds: this.#position() });
  }

  /** Finish after the current chunk; the socket is dropped if the server does not answer. */
  stop() {
    if (!this.#send({ type: "session.stop" })) return this.abandon();
    this.#timers.push(setTimeout(() => this.abandon(), STOP_PATIENCE_MS));
  }

  /** Drop the connection without a word. */
  abandon() {
    this.#finished = true;
    this.#socket?.close(1000);
  }

  #begin(request, position) {
    this.#send({ type: "session.start", ...request });
    this.#position = position;
    this.#timers.push(setInterval(() => this.report(), PLAYBACK_EVERY_MS));
    this.#timers.push(setInterval(() => this.#send({ type: "session.ping" }), PING_EVERY_MS));
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #receive(data) {
    if (typeof data !== "string") return this.#receiveChunk(data);
    const message = JSON.parse(data);
    switch (message.type) {
      case "video.start":
        this.#begun = true;
        return this.#emit("start", message);
      case "video.chunk_metadata":
        this.#metadata = message;
        return;
      case "session.interaction.queued":
        return this.#emit("queued", message);
      case "session.interaction.applied":
        return this.#emit("applied", message);
      case "session.done":
        this.#finished = true;
        return this.#emit("done", message);
      case "error":
        return this.#trouble(message);
    }
  }

  #receiveChunk(data) {
    const metadata = this.#metadata;
    this.#metadata = null;
    this.#lastTrouble = null; // the stream went on: that error was not its end
    if (metadata) this.#emit("chunk", { metadata, data });
  }

  // Whether an error ends the session shows only when the socket closes: a refused interaction leaves it running.
  #trouble({ code, message, param }) {
    this.#lastTrouble = { code, message, param };
    this.#emit("trouble", { ...this.#lastTrouble, fatal: !this.#begun });
  }

  #closed({ code, reason }) {
    this.#timers.forEach(clearTimeout);
    const clean = this.#finished;
    if (!clean && this.#begun) {
      const lost = { code: closeName(code), message: reason || "the connection ended before the stream did" };
      this.#emit("trouble", { ...(this.#lastTrouble ?? lost), fatal: true });
    } else if (!clean && !this.#lastTrouble) {
      this.#emit("trouble", { code: closeName(code), message: reason || "the server did not open a stream", fatal: true });
    }
    this.#emit("closed", { clean });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function closeName(code) {
  const names = { 1001: "shutting_down", 1011: "internal_error", 1012: "worker_failed", 1013: "session_rejected" };
  return names[code] ?? "connection_lost";
}
