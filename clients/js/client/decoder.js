// One Media Source decoder after the other for one stream: append, evict, and begin again with what was not shown.

import { initSegment } from "./boxes.js";

const KEEP_BEHIND = 12; // seconds of past kept for the decoder; older ranges are evicted
const REBUILDS = 5; // attempts between two healthy stretches
const REBUILD_AFTER_MS = 100;
const DECODED_AHEAD = 0.5; // seconds that a decoder may be ahead of the playhead when it fails

/** What a <video> is fed from; undefined in a browser without it. @type {typeof MediaSource | undefined} */
export const Source = /** @type {any} */ (globalThis).ManagedMediaSource ?? globalThis.MediaSource;

/** @typedef {{data: ArrayBuffer, end: number}} Part a fragment, and the seconds at which it ends once a decoder has it */

/** Whether this browser can play `mime` at all. @param {string} mime */
export function canPlay(mime) {
  return Boolean(Source?.isTypeSupported(mime));
}

/**
 * Decodes one stream into a <video>. Fragments are kept until they are behind the playhead: a decoder that fails is thrown
 * away, and the next one begins with what was not shown yet. Positions are in seconds of media time.
 */
export class Decoder {
  #video;
  #replaced;
  #failed;
  /** @type {MediaSource | null} */
  #source = null;
  /** @type {SourceBuffer | null} */
  #buffer = null;
  /** @type {Part[]} to append */
  #queue = [];
  /** @type {Part[]} those that it has, up to the playhead */
  #unplayed = [];
  /** @type {Part | null} the one that it is reading */
  #appending = null;
  /** @type {ArrayBuffer | null} init segment */
  #init = null;
  #at = 0; // where the decoder in hand began
  #mime = "";
  #rebuilds = 0;
  #rebuilding = false;
  #finishing = false;
  #open = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {() => void} replaced a decoder failed, and the next one is on its way
   * @param {(reason: string) => void} failed no decoder can read this stream
   */
  constructor(video, replaced, failed) {
    this.#video = video;
    this.#replaced = replaced;
    this.#failed = failed;
    video.addEventListener("loadedmetadata", () => this.#open && this.seek());
    video.addEventListener("error", () => this.#open && this.#rebuild());
  }

  /** Begin a stream of type `mime`; throws when the browser cannot play it. @param {string} mime */
  open(mime) {
    if (!canPlay(mime)) throw new Error(mime);
    this.close();
    this.#mime = mime;
    this.#init = null;
    this.#rebuilds = this.#at = 0;
    this.#finishing = this.#rebuilding = false;
    this.#open = true;
    this.#attach();
  }

  /** Take no more; the picture stays. */
  close() {
    this.#open = false;
    this.#forget();
  }

  get position() {
    return Math.max(this.#at, this.#video.currentTime);
  }

  /** Whether something that came is not decoded yet. */
  get busy() {
    return this.#rebuilding || this.#queue.length > 0 || this.#appending !== null;
  }

  get finishing() {
    return this.#finishing;
  }

  /** It played for a while: earlier failures count no more. */
  healthy() {
    this.#rebuilds = 0;
  }

  /** @param {ArrayBuffer} data the next fragment */
  append(data) {
    this.#init ??= initSegment(data);
    this.#queue.push({ data, end: Infinity });
    this.#pump();
  }

  /** No more fragments will come. */
  finish() {
    this.#finishing = true;
    this.#pump();
  }

  /** A decoder that begins late begins where the one before it failed. */
  seek() {
    if (this.#video.currentTime < this.#at) this.#video.currentTime = this.#at;
  }

  #forget() {
    this.#queue = [];
    this.#unplayed = [];
    this.#appending = null;
  }

  #attach() {
    if (!Source) return;
    const source = new Source();
    this.#source = source;
    this.#buffer = null;
    const url = URL.createObjectURL(source);
    source.addEventListener(
      "sourceopen",
      () => {
        URL.revokeObjectURL(url);
        if (this.#source !== source) return;
        const buffer = (this.#buffer = source.addSourceBuffer(this.#mime));
        buffer.addEventListener("updateend", () => this.#buffer === buffer && this.#updated());
        this.#pump();
      },
      { once: true },
    );
    this.#video.disableRemotePlayback = true; // ManagedMediaSource insists on it
    this.#video.src = url;
  }

  #updated() {
    if (this.#source?.readyState !== "open") return; // it could not be read: the error event follows
    const { buffered } = this.#video;
    if (this.#appending && buffered.length) {
      this.#appending.end = buffered.end(buffered.length - 1);
      this.#unplayed.push(this.#appending);
    }
    this.#appending = null;
    this.#unplayed = this.#unplayed.filter(({ end }) => end > this.position);
    this.#pump();
  }

  #pump() {
    if (!this.#buffer || this.#buffer.updating || this.#source?.readyState !== "open") return;
    if (this.#evict(this.#buffer, KEEP_BEHIND)) return;
    const fragment = this.#queue.shift();
    if (fragment) return this.#push(this.#buffer, fragment);
    if (this.#finishing) this.#source.endOfStream();
  }

  /** @param {SourceBuffer} buffer @param {Part} fragment */
  #push(buffer, fragment) {
    this.#appending = fragment;
    try {
      buffer.appendBuffer(fragment.data);
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "QuotaExceededError") return this.#rebuild();
      this.#appending = null;
      this.#queue.unshift(fragment);
      if (!this.#evict(buffer, 1)) setTimeout(() => this.#pump(), 500);
    }
  }

  // Every fragment begins with a key frame, so a cut more than a fragment behind the playhead cannot lose its decoder.
  /** @param {SourceBuffer} buffer @param {number} keep seconds */
  #evict(buffer, keep) {
    const { buffered, currentTime } = this.#video;
    const until = currentTime - keep;
    if (!buffered.length || buffered.start(0) > until - (keep > 1 ? KEEP_BEHIND / 2 : 0) || until <= 0) return false;
    buffer.remove(0, until);
    return true;
  }

  // The server waits for the playhead, so what was there before must be there again, or the playhead never moves.
  #rebuild() {
    if (this.#rebuilding) return;
    if (++this.#rebuilds > REBUILDS || !this.#init?.byteLength) return this.#giveUp();
    this.#rebuilding = true;
    this.#at = this.position;
    this.#queue = [{ data: this.#init, end: 0 }, ...this.#trusted(), ...this.#queue];
    this.#unplayed = [];
    this.#appending = this.#buffer = null; // what arrives meanwhile must wait for the new one, behind the init segment
    this.#replaced();
    setTimeout(() => {
      this.#rebuilding = false;
      if (this.#open) this.#attach();
    }, REBUILD_AFTER_MS);
  }

  #giveUp() {
    this.#failed(this.#video.error?.message || "the decoder gave up");
  }

  // The fragment that could not be read is left out. Where none is to blame all are tried once more, then those behind the
  // place of the accident, then only what is new.
  #trusted() {
    const ahead = this.#unplayed.filter(({ end }) => end > this.#at);
    if (this.#appending || this.#rebuilds === 1) return ahead;
    return this.#rebuilds === 2 ? ahead.filter((_, i) => i && ahead[i - 1].end > this.#at + DECODED_AHEAD) : [];
  }
}
