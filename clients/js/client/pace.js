// The playback rate: if chunks arrive more slowly than they play, playback slows down evenly. No DOM, no clocks.

const SLOWEST = 0.3; // of the normal rate; below it, playback stalls instead
const RATES = 4; // chunks that are averaged: one gap does not mean a slow machine
const SPARE = 0.35; // of a chunk: the lead that should remain when the next one arrives
const SCARCE = 0.15; // seconds of lead below which playback slows at once
const STEP = 0.08; // largest change of the rate per tick

/** @param {number} value @param {number} least @param {number} most */
const within = (value, least, most) => Math.max(least, Math.min(most, value));

export class Pace {
  /** @type {number[]} seconds of media received per second, for the newest chunks */
  #rates = [];
  /** @type {number | null} */
  #cameAt = null;
  #wanted = 1;
  #now = 1;

  /** Start of a stream. */
  begin() {
    this.#rates = [];
    this.#wanted = this.#now = 1;
    this.stand();
  }

  /** Ignore the time until the next chunk. */
  stand() {
    this.#cameAt = null;
  }

  /** A chunk of `seconds` arrived at `now` with `lead` left to play. All in seconds. @param {number} now @param {number} seconds @param {number} lead */
  came(now, seconds, lead) {
    if (this.#cameAt !== null && now > this.#cameAt) {
      this.#rates = [...this.#rates, seconds / (now - this.#cameAt)].slice(-RATES);
      const supply = middle(this.#rates);
      // Play per cycle what arrives per cycle, and correct half of the deviation from the spare lead.
      this.#wanted = within(supply * (1 + (lead / seconds - SPARE) / 2), SLOWEST, 1);
    }
    this.#cameAt = now;
  }

  /** The rate for the next tick with `lead` left to play (Infinity: nothing more will come). @param {number} lead */
  tick(lead) {
    const wanted = lead === Infinity ? 1 : this.#wanted * within(lead / SCARCE, 0.5, 1);
    this.#now += within(wanted - this.#now, -STEP, STEP);
    return this.#now;
  }
}

/** @param {number[]} values */
function middle(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
}
