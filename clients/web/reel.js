// The recording: an MP4 of the received fragments, with the prompts as chapters. No DOM.

import { initSegment } from "./client/boxes.js";

const ROOM = 256 * 2 ** 20; // bytes of a recording; the oldest pictures are dropped
const MOST_CHAPTERS = 255;
const TITLE_BYTES = 255;
const TICKS = 10_000_000; // units per second in chapter marks

/** @typedef {{at: number, title: string}} Chapter */

export class Reel {
  #init = new ArrayBuffer(0);
  /** @type {{data: ArrayBuffer, seconds: number, prompt?: string}[]} */
  #fragments = [];
  #bytes = 0;
  #room;
  /** Seconds that were dropped. */
  lost = 0;

  /** @param {number} [room] bytes */
  constructor(room = ROOM) {
    this.#room = room;
  }

  clear() {
    this.#init = new ArrayBuffer(0);
    this.#fragments = [];
    this.#bytes = this.lost = 0;
  }

  /**
   * Add a fragment, the seconds of media in it and its prompt.
   * @param {ArrayBuffer} data
   * @param {number} seconds
   * @param {string} [prompt]
   */
  add(data, seconds, prompt) {
    if (!this.#init.byteLength) this.#init = initSegment(data);
    const begins = this.#fragments.length || this.lost ? 0 : this.#init.byteLength;
    this.#fragments.push({ data: begins ? data.slice(begins) : data, seconds, prompt });
    this.#bytes += data.byteLength;
    this.#makeRoom();
  }

  #makeRoom() {
    while (this.#bytes > this.#room) {
      const oldest = this.#fragments.shift();
      if (!oldest) return;
      this.#bytes -= oldest.data.byteLength;
      this.lost += oldest.seconds;
    }
  }

  /** Seconds of media in it. */
  get seconds() {
    return this.#fragments.reduce((sum, { seconds }) => sum + seconds, 0);
  }

  /** Where each prompt begins, in seconds from the start of the stream. */
  get chapters() {
    let at = this.lost;
    /** @type {Chapter[]} */
    const found = [];
    for (const { seconds, prompt } of this.#fragments) {
      if (prompt && prompt !== found.at(-1)?.title) found.push({ at, title: prompt });
      at += seconds;
    }
    return found;
  }

  /** Init segment and the newest fragments that contain at least this many seconds. @param {number} seconds */
  newest(seconds) {
    let first = this.#fragments.length;
    for (let held = 0; first > 0 && held < seconds; ) held += this.#fragments[--first].seconds;
    const fragments = this.#fragments.slice(first).map(({ data }) => data);
    return [this.#init, ...fragments];
  }

  mp4() {
    const parts = [withChapters(this.#init, this.chapters), ...this.#fragments.map(({ data }) => data)];
    return new Blob(parts, { type: "video/mp4" });
  }
}

/**
 * `init` (ftyp and moov) with chapter marks (Nero's `chpl`, which ffmpeg, VLC and mpv read) at the end of its moov.
 * @param {ArrayBuffer} init
 * @param {Chapter[]} chapters
 */
export function withChapters(init, chapters) {
  const moov = boxAt(init, "moov");
  if (!moov || !chapters.length) return init;
  const marks = box("udta", box("chpl", chapterList(chapters.slice(0, MOST_CHAPTERS))));
  const end = moov.at + moov.size;
  const whole = new Uint8Array(init.byteLength + marks.length);
  whole.set(new Uint8Array(init, 0, end));
  whole.set(marks, end);
  whole.set(new Uint8Array(init, end), end + marks.length);
  new DataView(whole.buffer).setUint32(moov.at, moov.size + marks.length);
  return whole.buffer;
}

// Version 1: flags, four reserved bytes, the count; then start, length and title of each.
/** @param {Chapter[]} chapters */
function chapterList(chapters) {
  const bytes = [1, 0, 0, 0, 0, 0, 0, 0, chapters.length];
  for (const { at, title } of chapters) {
    const name = [...new TextEncoder().encode(title)].slice(0, TITLE_BYTES);
    const start = new DataView(new ArrayBuffer(8));
    start.setBigUint64(0, BigInt(Math.round(at * TICKS)));
    bytes.push(...new Uint8Array(start.buffer), name.length, ...name);
  }
  return Uint8Array.from(bytes);
}

/** @param {string} type @param {Uint8Array} body */
function box(type, body) {
  const whole = new Uint8Array(8 + body.length);
  new DataView(whole.buffer).setUint32(0, whole.length);
  whole.set(new TextEncoder().encode(type), 4);
  whole.set(body, 8);
  return whole;
}

/** @param {ArrayBuffer} data @param {string} type */
function boxAt(data, type) {
  const view = new DataView(data);
  const name = new DataView(new TextEncoder().encode(type).buffer).getUint32(0);
  for (let at = 0; at + 8 <= view.byteLength; at += view.getUint32(at)) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === name) return { at, size };
    if (size < 8) return null;
  }
  return null;
}
