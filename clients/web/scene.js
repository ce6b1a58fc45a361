// A scene as an address: words, seed, model, and what was changed at which chunk. The same again paints the same pictures.

const MOST = 64; // changes that a server takes at the beginning

/**
 * @typedef {{at: number, prompt?: string, speed?: number, cut_to?: number}} Change
 * @typedef {{model: string, by: string, pafu: string}} Maker a model, the checksum of its weights, the version of Pafu
 * @typedef {{prompt: string, seed: string, maker: Maker, changes: Change[], until: number}} Scene
 * @typedef {{prompt: string, seed: number, seconds: number, model?: string, input_reference?: string,
 *   interactions: ReturnType<typeof asInteractions>}} JobOrder as POST /v1/videos takes it
 */

/** What was changed in one stream, in the order in which it came into force. */
export class SceneLog {
  /** @type {Map<string, Omit<Change, "at">>} event id -> the change, not in force yet */
  #told = new Map();
  /** @type {Change[]} */
  #changes = [];

  clear() {
    this.#told.clear();
    this.#changes = [];
  }

  /** @param {string | null} id @param {{prompt?: string, camera?: {speed?: number, cut_to?: number}}} change */
  told(id, { prompt, camera }) {
    if (id) this.#told.set(id, { ...(prompt === undefined ? {} : { prompt }), ...camera });
  }

  /** @param {string} id @param {number} chunk */
  applied(id, chunk) {
    const change = this.#told.get(id);
    this.#told.delete(id);
    if (change) this.#changes.push({ at: chunk, ...change });
  }

  /** Known from the beginning: what a link said. @param {Change[]} changes */
  begin(changes) {
    changes.forEach(({ prompt, speed, cut_to }, place) => this.told(`evt_start_${place}`, { prompt, camera: cameraOf({ speed, cut_to }) }));
  }

  /** @returns {Change[]} */
  get changes() {
    return [...this.#changes];
  }
}

/** What of the camera is said. @param {{speed?: number, cut_to?: number}} change */
function cameraOf({ speed, cut_to }) {
  return { ...(speed === undefined ? {} : { speed }), ...(cut_to === undefined ? {} : { cut_to }) };
}

/** The part of an address behind `#`. Null when there are too many changes for one. @param {Scene} scene */
export function sceneHash({ prompt, seed, maker, changes, until }) {
  if (changes.length > MOST) return null;
  const said = Object.entries(maker).filter(([, value]) => value);
  const fields = new URLSearchParams([["prompt", prompt], ["seed", seed], ...said]);
  if (changes.length || until) {
    fields.set("log", JSON.stringify(changes));
    fields.set("until", String(until));
  }
  return `#${fields}`;
}

/**
 * What is another than when a link was made, as the code of a trouble; null when it paints the same pictures.
 * @param {Maker} made what the link says, "" for what it does not say
 * @param {Maker} here
 */
export function madeElsewhere(made, here) {
  if (made.model && made.model !== here.model) return { code: "other_model", message: `the link says ${made.model}, this server has ${here.model}` };
  if (made.by && here.by && made.by !== here.by) return { code: "other_weights", message: `the link says ${made.by}, this server has ${here.by}` };
  if (made.pafu && here.pafu && made.pafu !== here.pafu) return { code: "other_version", message: `the link says ${made.pafu}, this server is ${here.pafu}` };
  return null;
}

/** The changes of an address; throws for a text that says none. @param {string} text @returns {Change[]} */
export function readLog(text) {
  const changes = JSON.parse(text || "[]");
  const whole = (/** @type {unknown} */ value) => value === undefined || Number.isInteger(value);
  const fine = (/** @type {any} */ { at, prompt, speed, cut_to }) =>
    Number.isInteger(at) && at >= 0 && ["undefined", "string"].includes(typeof prompt) && whole(speed) &&
    (cut_to === undefined || Number.isFinite(cut_to)) && (prompt ?? speed ?? cut_to) !== undefined;
  if (!Array.isArray(changes) || changes.length > MOST || !changes.every(fine)) throw new TypeError("no list of changes");
  return changes;
}

/**
 * The changes that an address brings, if the words and the seed of `request` are still its own; throws as readLog.
 * @param {{prompt: string, seed: string, log: string, until: number}} address
 * @param {{prompt: string, seed: number}} request
 */
export function recalled({ prompt, seed, log, until }, request) {
  const same = log && request.prompt === prompt && String(request.seed) === seed;
  return same ? { changes: readLog(log), until } : null;
}

/** Changes as session.start takes them. @param {Change[]} changes */
export function asInteractions(changes) {
  return changes.map(({ at, prompt, speed, cut_to }) => {
    const camera = cameraOf({ speed, cut_to });
    const event = { ...(prompt === undefined ? {} : { prompt }), ...(Object.keys(camera).length ? { multi_modal_data: { camera } } : {}) };
    return { at_chunk: at, event };
  });
}
