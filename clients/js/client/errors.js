// What goes wrong, as one kind of error.

/** A refusal of the server, or a failure on the way to it. */
export class PafuError extends Error {
  /**
   * @param {import("./protocol.js").Refusal} refusal `code` is a stable name; `param` the field at fault; `retryable`:
   *   the same may work later
   */
  constructor({ code, message, param, retryable }) {
    super(message || code);
    this.name = "PafuError";
    this.code = code;
    this.param = param ?? null;
    this.retryable = retryable ?? false;
  }
}
