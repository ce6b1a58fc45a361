// Small pictures of what was shown, one for each latent frame, taken from the video while it plays.

import { offscreen } from "./dom.js";
import { endOf } from "./moments.js";

const HEIGHT = 128; // pixels of a stored picture
const NEAR = 3; // a moment whose picture the player skipped borrows one that is so near
const LAST_PICTURES = 1.6; // of a latent frame: its picture is its last one, where its tokens stand

export class Thumbs {
  #video;
  /** @type {Map<number, OffscreenCanvas>} of each latent */
  #canvases = new Map();

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
  }

  clear() {
    this.#canvases.clear();
  }

  /**
   * Take the picture on display, which belongs to `latent`, if it is the first one of it or its last.
   * @param {number} latent
   * @param {import("./client/messages.js").MemoryShape} timing
   * @param {number} fps
   */
  take(latent, timing, fps) {
    const { videoWidth, videoHeight, currentTime } = this.#video;
    const last = endOf(latent, timing, fps) - currentTime < LAST_PICTURES / fps;
    if (!videoWidth || !(last || !this.#canvases.has(latent))) return;
    const { canvas, context } = offscreen(Math.round((HEIGHT * videoWidth) / videoHeight), HEIGHT);
    context.drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    this.#canvases.set(latent, canvas);
  }

  /** The picture of `latent` or of a neighbour, or null. @param {number} latent */
  near(latent) {
    for (let step = 0; step <= NEAR; step++) {
      const found = this.#canvases.get(latent + step) ?? this.#canvases.get(latent - step);
      if (found) return found;
    }
    return null;
  }

  /**
   * Forget those from before `playing` that `needed(latent)` does not name.
   * @param {number} playing
   * @param {(latent: number) => boolean} needed
   */
  sweep(playing, needed) {
    for (const latent of this.#canvases.keys()) {
      if (latent < playing - NEAR && !needed(latent)) this.#canvases.delete(latent);
    }
  }
}
