// Maps chunks to media time. Chunks arrive in order; each lasts as long as its pictures. No DOM.

export class Timeline {
  /** @type {number[]} */
  #begins = []; // seconds at which each chunk begins
  #end = 0;
  #first = 0; // index of the first received chunk
  chunkSeconds = 0.75; // of the newest chunk

  clear() {
    this.#begins = [];
    this.#end = 0;
  }

  /** Add a received chunk: its index, and the seconds of media in it. @param {number} index @param {number} seconds */
  add(index, seconds) {
    if (!this.#begins.length) this.#first = index;
    this.#begins.push(this.#end);
    this.#end += seconds;
    if (seconds) this.chunkSeconds = seconds;
  }

  /** Index of the next chunk. */
  get next() {
    return this.#first + this.#begins.length;
  }

  /** Index of the chunk on display at `seconds`; after the end, that of the next chunk. @param {number} seconds */
  chunkAt(seconds) {
    if (seconds >= this.#end) return this.next;
    return this.#first + this.#begins.findLastIndex((begin) => begin <= seconds);
  }
}
