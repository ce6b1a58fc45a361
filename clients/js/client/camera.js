// Turns the viewer's camera commands into as few interactions as possible. No DOM.

/** @type {Readonly<Record<string, number>>} */
export const SPEEDS = { slow: 4, steady: 8, fast: 16 }; // pixels per picture
const HOLD_PATIENCE_MS = 30_000; // on a slow machine a chunk takes seconds

/**
 * Camera commands. `send(speed)` must send one interaction and return its event id (or null).
 *
 * Changes take effect at chunk boundaries, so pressing and releasing within one chunk would do nothing. A release
 * therefore waits until the preceding move has been applied.
 */
export class CameraWish {
  #send;
  /** @type {number | null} */
  #wanted = 0;
  /** @type {number | null} */
  #sent = 0;
  /** @type {string | null} */
  #moving = null; // event id of a move that the server has not applied yet
  #timer = 0;

  /** @param {(speed: number) => string | null} send */
  constructor(send) {
    this.#send = send;
  }

  /** The last requested speed, pixels per picture, positive to the right; null if a prompt set it. */
  get speed() {
    return this.#wanted;
  }

  /**
   * A new stream began, or a prompt set the camera: nothing is pending, and the camera moves at `speed`.
   * @param {number | null} speed
   */
  reset(speed = 0) {
    clearTimeout(this.#timer);
    this.#moving = null;
    this.#wanted = this.#sent = speed;
  }

  /** @param {number} speed */
  want(speed) {
    this.#wanted = speed;
    if (speed !== 0 || !this.#moving) this.#flush();
  }

  /** @param {string} eventId */
  applied(eventId) {
    if (eventId !== this.#moving) return;
    this.#moving = null;
    this.#flush();
  }

  #flush() {
    if (this.#wanted === null || this.#wanted === this.#sent) return;
    clearTimeout(this.#timer);
    const id = this.#send(this.#wanted);
    if (!id) return;
    this.#sent = this.#wanted;
    this.#moving = this.#wanted === 0 ? null : id;
    if (this.#moving) this.#timer = setTimeout(() => this.applied(id), HOLD_PATIENCE_MS);
  }
}
