// "Go away and come back": the plan of a tour, chunk by chunk. No DOM, no clocks.

const PACE = 8; // pixels per picture
const SOON = 4; // chunks from now: an order is in time for it
const LOOK = 2; // chunks at the place after the return

/**
 * @typedef {{at: number, speed: number}} Order what the camera does from chunk `at` on
 * @typedef {"before" | "farthest" | "after"} Picture
 * @typedef {ReturnType<typeof planTour>} Plan
 */

/** @type {Picture[]} in the order in which they are kept */
const PICTURES = ["before", "farthest", "after"];

/** The offered absences, in seconds. */
export const AWAY = [6, 20, 50];

/**
 * The tour from chunk `next` on, with chunks of `chunkSeconds`: the place is out of view for `away` seconds. Both ways take
 * the same number of chunks, with a stop of one chunk between them, so that the camera returns to the same pixel.
 *
 * {orders: [{at, speed}], before, farthest, after: chunks at whose end to keep a picture; the camera is at rest}
 * @param {{next: number, chunkSeconds: number, away: number}} _
 */
export function planTour({ next, chunkSeconds, away }) {
  const way = Math.max(1, Math.round(away / 2 / chunkSeconds));
  const leave = next + SOON;
  const turn = leave + way;
  const back = turn + 1 + way;
  return {
    orders: [
      { at: leave - 1, speed: 0 },
      { at: leave, speed: PACE },
      { at: turn, speed: 0 },
      { at: turn + 1, speed: -PACE },
      { at: back, speed: 0 },
    ],
    before: leave - 1,
    farthest: turn,
    after: back + LOOK - 1,
  };
}

/**
 * The picture of `plan` to take while chunk `playing` is displayed, given the `kept` ones; null for none.
 * @param {Plan} plan
 * @param {number} playing
 * @param {Picture[]} kept
 */
export function pictureDue(plan, playing, kept) {
  return PICTURES.find((name) => playing >= plan[name] && !kept.includes(name)) ?? null;
}

/** The status text for viewers. @param {Plan} plan @param {number} playing */
export function tourWords(plan, playing) {
  if (playing < plan.before) return "Looking at the place once more.";
  if (playing < plan.farthest) return "Going away.";
  return playing < plan.after - LOOK + 1 ? "Coming back." : "Here again.";
}

/**
 * PSNR in dB of two pictures of the same size (RGBA bytes); infinite if they are equal.
 * @param {Uint8ClampedArray} one
 * @param {Uint8ClampedArray} other
 */
export function likeness(one, other) {
  let error = 0;
  for (let i = 0; i < one.length; i++) if (i % 4 !== 3) error += (one[i] - other[i]) ** 2;
  return error ? 10 * Math.log10((255 ** 2 * one.length * 0.75) / error) : Infinity;
}
