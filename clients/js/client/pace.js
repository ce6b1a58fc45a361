// How fast a stream plays: slower, and evenly so, where its chunks come slower than they play. No DOM, no clocks.

const SLOWEST = 0.3; // of the normal pace; what comes slower than that has to stop and wait
const RATES = 4; // chunks that the supply is judged by: one gap is no slow machine
const SPARE = 0.35; // of a chunk: what should be left to play when the next one comes
const SCARCE = 0.15; // seconds of lead below which it eases off at once
const STEP = 0.08; // most by which the pace changes in one tick

/** @param {number} value @param {number} least @param {number} most */
const within = (value, least, most) => Math.max(least, Math.min(most, value));

export class Pace {
  /** @type {number[]} seconds of media that came in each second, of the newest chunks */
  #rates = [];
  /** @type {number | null} */
  #cameAt = null;
  #wanted = 1;
  #now = 1;

  /** A stream begins. */
  begin() {
    this.#rates = [];
    this.#wanted = this.#now = 1;
    this.stand();
  }

  /** Time that passes until the next chunk says nothing. */
  stand() {
    this.#cameAt = null;
  }

  /** A chunk of `seconds` came at `now`, when `lead` was left to play. All in seconds. @param {number} now @param {number} seconds @param {number} lead */
  came(now, seconds, lead) {
    if (this.#cameAt !== null && now > this.#cameAt) {
      this.#rates = [...this.#rates, seconds / (now - this.#cameAt)].slice(-RATES);
      const supply = middle(this.#rates);
      // What came in a cycle is played in it; half of what is missing of the spare, or too much, is made up for.
      this.#wanted = within(supply * (1 + (lead / seconds - SPARE) / 2), SLOWEST, 1);
    }
    this.#cameAt = now;
  }

  /** The pace for the next tick, with so much left to play; Infinity when no more will come. @param {number} lead */
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
