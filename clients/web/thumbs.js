// Thumbnails of the video, one per latent frame, taken while it plays.

import { offscreen } from "./dom.js";
import { endOf } from "./moments.js";

const HEIGHT = 128; // pixels of a stored picture
const NEAR = 3; // latents: if the player skipped a picture, use one at most this far away
const LAST_PICTURES = 1.6; // pictures: a latent frame's thumbnail is its last picture, which matches its tokens

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
   * Take the displayed picture for `latent`, if it is the first one seen or the last one of that latent.
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

  /** The thumbnail of `latent` or of a neighbor, or null. @param {number} latent */
  near(latent) {
    for (let step = 0; step <= NEAR; step++) {
      const found = this.#canvases.get(latent + step) ?? this.#canvases.get(latent - step);
      if (found) return found;
    }
    return null;
  }

  /**
   * Drop thumbnails before `playing` unless `needed(latent)`.
   * @param {number} playing
   * @param {(latent: number) => boolean} needed
   */
  sweep(playing, needed) {
    for (const latent of this.#canvases.keys()) {
      if (latent < playing - NEAR && !needed(latent)) this.#canvases.delete(latent);
    }
  }
}
