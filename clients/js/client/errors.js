// The client's error class.

/** A refusal by the server, or a failed connection. */
export class PafuError extends Error {
  /**
   * @param {import("./protocol.js").Refusal} refusal `code` is a stable name, `param` the field at fault; `retryable`:
   *   the same request may succeed later
   */
  constructor({ code, message, param, retryable }) {
    super(message || code);
    this.name = "PafuError";
    this.code = code;
    this.param = param ?? null;
    this.retryable = retryable ?? false;
  }
}
