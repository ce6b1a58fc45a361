// Decodes a stream with Media Source Extensions: appends, evicts, and replaces a decoder that fails.

import { initSegment } from "./boxes.js";

const KEEP_BEHIND = 12; // seconds kept behind the playhead; older ranges are evicted
const REBUILDS = 5; // replacements before the stream plays well again
const REBUILD_AFTER_MS = 100;
const DECODED_AHEAD = 0.5; // seconds that a decoder may be ahead of the playhead when it fails

/** The MediaSource class; undefined in browsers without one. @type {typeof MediaSource | undefined} */
export const Source = /** @type {any} */ (globalThis).ManagedMediaSource ?? globalThis.MediaSource;

/** @typedef {{data: ArrayBuffer, end: number}} Part a fragment, and its end in seconds once appended */

/** Whether this browser can play `mime` at all. @param {string} mime */
export function canPlay(mime) {
  return Boolean(Source?.isTypeSupported(mime));
}

/**
 * Decodes one stream into a <video>. Fragments are kept until the playhead has passed them: if a decoder fails, the next one
 * starts with what was not shown yet. Positions are in seconds of media time.
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
  /** @type {Part[]} appended, not yet played */
  #unplayed = [];
  /** @type {Part | null} being appended */
  #appending = null;
  /** @type {ArrayBuffer | null} init segment */
  #init = null;
  #at = 0; // where the current decoder started
  #mime = "";
  #rebuilds = 0;
  #rebuilding = false;
  #finishing = false;
  #open = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {() => void} replaced a decoder failed and is being replaced
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

  /** Stop; the last picture stays. */
  close() {
    this.#open = false;
    this.#forget();
  }

  get position() {
    return Math.max(this.#at, this.#video.currentTime);
  }

  /** Whether fragments are not decoded yet. */
  get busy() {
    return this.#rebuilding || this.#queue.length > 0 || this.#appending !== null;
  }

  get finishing() {
    return this.#finishing;
  }

  /** It played for a while: forget earlier failures. */
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

  /** Where the current decoder starts: 0, or where the previous one failed. */
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
    this.#video.disableRemotePlayback = true; // required by ManagedMediaSource
    this.#video.src = url;
  }

  #updated() {
    if (this.#source?.readyState !== "open") return; // the append failed: an error event follows
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

  // Every fragment starts with a key frame, so evicting more than a fragment behind the playhead is safe.
  /** @param {SourceBuffer} buffer @param {number} keep seconds */
  #evict(buffer, keep) {
    const { buffered, currentTime } = this.#video;
    const until = currentTime - keep;
    if (!buffered.length || buffered.start(0) > until - (keep > 1 ? KEEP_BEHIND / 2 : 0) || until <= 0) return false;
    buffer.remove(0, until);
    return true;
  }

  // The server waits for the playhead, so a new decoder must get the old fragments again, or the playhead never moves.
  #rebuild() {
    if (this.#rebuilding) return;
    if (++this.#rebuilds > REBUILDS || !this.#init?.byteLength) return this.#giveUp();
    this.#rebuilding = true;
    this.#at = this.position;
    this.#queue = [{ data: this.#init, end: 0 }, ...this.#trusted(), ...this.#queue];
    this.#unplayed = [];
    this.#appending = this.#buffer = null; // new fragments wait for the next decoder and its init segment
    this.#replaced();
    setTimeout(() => {
      this.#rebuilding = false;
      if (this.#open) this.#attach();
    }, REBUILD_AFTER_MS);
  }

  #giveUp() {
    this.#failed(this.#video.error?.message || "the decoder gave up");
  }

  // Skips the fragment that could not be appended. If none is to blame, it tries all fragments again, then those after the
  // point of failure, then only new ones.
  #trusted() {
    const ahead = this.#unplayed.filter(({ end }) => end > this.#at);
    if (this.#appending || this.#rebuilds === 1) return ahead;
    return this.#rebuilds === 2 ? ahead.filter((_, i) => i && ahead[i - 1].end > this.#at + DECODED_AHEAD) : [];
  }
}
