// The memory view's data: a chunk's cache content, the moments to show, and a summary sentence. No DOM.

/**
 * @typedef {{kept: Uint8Array, salience: Uint8Array | null}} Moment one latent frame: share of the layers that hold each
 *   token, and its salience, both 0 to 255, rows x columns; no salience under a policy without scores
 * @typedef {Map<number, Moment>} Memory by latent
 * @typedef {Moment & {latent: number, latents: number[], view: unknown}} Shown one moment, or several consecutive ones of one view
 * @typedef {import("./client/messages.js").MemoryShape} Timing
 */

const SHOWN_FROM = 0.02; // share of a moment's tokens below which it counts as forgotten
const CLEARLY = 1.3; // times the mean share: a part of the picture is clearly kept above it, clearly dropped below its inverse
const BANDS = ["the sky", "what stands in the middle", "the ground"]; // of the picture, from top to bottom
const EVERYTHING = 0.98; // share of all tokens from which on nothing counts as dropped

/** Bytes of a base64 text. @param {string} text */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * One chunk's memory.
 * @param {import("./client/messages.js").KeptTokens} tokens
 * @returns {Memory}
 */
export function readMemory({ rows, columns, latents, kept, salience }) {
  const cells = rows * columns;
  const [all, scores] = [bytesOf(kept), bytesOf(salience)];
  const part = (/** @type {Uint8Array} */ bytes, /** @type {number} */ place) => bytes.subarray(place * cells, (place + 1) * cells);
  return new Map(
    latents.map((latent, place) => [latent, { kept: part(all, place), salience: scores.length ? part(scores, place) : null }]),
  );
}

/** Share of a moment's tokens that are kept. @param {Moment} moment */
export function share(moment) {
  return moment.kept.reduce((sum, value) => sum + value, 0) / (255 * moment.kept.length);
}

/** [latent, moment] of those that do not count as forgotten, in time order. @param {Memory} memory */
export function stillKnown(memory) {
  return [...memory].filter(([, moment]) => share(moment) >= SHOWN_FROM).sort(([a], [b]) => a - b);
}

/**
 * Moments to show, in time order, at most `most`. If there are more, consecutive moments of one view (`viewOf(latent)`, a
 * camera at rest) are merged. Then those with most tokens are chosen, half of them from the older half of the moments,
 * because old moments that are still known are what a memory is for.
 * @param {Memory} memory
 * @param {number} most
 * @param {(latent: number) => unknown} [viewOf]
 */
export function moments(memory, most, viewOf = (latent) => latent) {
  /** @type {Shown[]} */
  const found = [];
  const known = stillKnown(memory);
  const crowd = Math.ceil(known.length / most);
  for (const [latent, moment] of known) {
    const last = found.at(-1);
    if (last && last.view === viewOf(latent) && last.latents.length < crowd) join(last, latent, moment);
    else found.push({ latent, latents: [latent], view: viewOf(latent), kept: moment.kept, salience: moment.salience });
  }
  const middle = Math.floor(found.length / 2);
  const [older, newer] = [best(found.slice(0, middle)), best(found.slice(middle))];
  const old = Math.min(older.length, Math.max(Math.floor(most / 2), most - newer.length));
  const chosen = [...older.slice(0, old), ...newer.slice(0, most - old)];
  return found.filter((moment) => chosen.includes(moment));
}

/** @param {Shown[]} found */
const best = (found) => found.sort((a, b) => share(b) - share(a));

/** @param {Shown} into @param {number} latent @param {Moment} moment */
function join(into, latent, { kept, salience }) {
  const more = (/** @type {number} */ place) => kept[place] > into.kept[place];
  into.salience &&= into.salience.map((value, place) => (salience && more(place) ? salience[place] : value));
  into.kept = into.kept.map((value, place) => (more(place) ? kept[place] : value));
  into.latents.push(latent);
  into.latent = latent;
}

/**
 * The tokens that `after` no longer holds: the lost share of each cell, by latent, if it is visible.
 * @param {Memory} before
 * @param {Memory} after
 * @returns {Map<number, Float32Array>}
 */
export function lostBetween(before, after) {
  const lost = new Map();
  for (const [latent, old] of before) {
    const kept = after.get(latent)?.kept;
    const cells = Float32Array.from(old.kept, (value, place) => Math.max(0, value - (kept?.[place] ?? 0)) / 255);
    if (cells.some((part) => part > 0.1)) lost.set(latent, cells);
  }
  return lost;
}

/** Seconds of media time at which latent frame `latent` ends. @param {number} latent @param {Timing} timing @param {number} fps */
export function endOf(latent, { pictures_per_latent: each, first_latent_pictures: first }, fps) {
  return (first + latent * each) / fps;
}

/** The latent frame of the picture at `seconds` of media time. @param {number} seconds @param {Timing} timing @param {number} fps */
export function latentAt(seconds, { pictures_per_latent: each, first_latent_pictures: first }, fps) {
  const picture = Math.floor(seconds * fps + 0.01);
  return picture < first ? 0 : 1 + Math.floor((picture - first) / each);
}

/** How many tokens are kept, in host memory too. @param {Memory} memory @param {number} perLatent */
export function heldTokens(memory, perLatent) {
  return Math.round([...memory.values()].reduce((sum, moment) => sum + perLatent * share(moment), 0));
}

/**
 * A sentence that says which parts of the picture the memory kept, and which it dropped.
 * @param {Memory} memory
 * @param {number} rows
 * @param {number} columns
 * @param {number} percent of all tokens that are kept
 */
export function inWords(memory, rows, columns, percent) {
  if (percent >= 100 * EVERYTHING) return "It remembers all that it has shown so far.";
  const shares = bandShares([...memory.values()], rows, columns);
  const mean = shares.reduce((sum, value) => sum + value, 0) / shares.length;
  const where = (/** @type {(share: number) => boolean} */ holds) => listed(BANDS.filter((_, place) => holds(shares[place])));
  const kept = where((value) => value > mean * CLEARLY);
  const gone = where((value) => value * CLEARLY < mean);
  if (kept && gone) return `It kept ${kept} and let ${gone} go.`;
  if (kept) return `It kept ${kept} and a little of the rest.`;
  return gone ? `It let ${gone} go and kept the rest.` : "It kept a little of everything.";
}

/** The kept share of each band of the picture, over all moments. @param {Moment[]} all @param {number} rows @param {number} columns */
function bandShares(all, rows, columns) {
  const shares = BANDS.map(() => ({ kept: 0, cells: 0 }));
  for (const { kept } of all) {
    kept.forEach((value, cell) => {
      const band = shares[Math.min(BANDS.length - 1, Math.floor((Math.floor(cell / columns) * BANDS.length) / rows))];
      band.kept += value / 255;
      band.cells++;
    });
  }
  return shares.map(({ kept, cells }) => (cells ? kept / cells : 0));
}

/** @param {string[]} names */
function listed(names) {
  return names.length < 2 ? (names[0] ?? "") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
