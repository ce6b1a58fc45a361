// A scene as a link: prompt, seed, model, and the changes with their chunks. Opening it generates the same pictures.

const MOST = 64; // changes that session.start accepts

/**
 * @typedef {{at: number, prompt?: string, speed?: number, cut_to?: number}} Change
 * @typedef {{model: string, by: string, pafu: string}} Maker a model, the checksum of its weights, the version of Pafu
 * @typedef {{prompt: string, seed: string, maker: Maker, changes: Change[], until: number}} Scene
 * @typedef {{prompt: string, seed: number, seconds: number, model?: string, input_reference?: string,
 *   interactions: ReturnType<typeof asInteractions>}} JobOrder as POST /v1/videos takes it
 */

/** The changes of a stream, in the order in which they took effect. */
export class SceneLog {
  /** @type {Map<string, Omit<Change, "at">>} event id -> change that has not taken effect */
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

  /** Changes known at the start, from a link. @param {Change[]} changes */
  begin(changes) {
    changes.forEach(({ prompt, speed, cut_to }, place) => this.told(`evt_start_${place}`, { prompt, camera: cameraOf({ speed, cut_to }) }));
  }

  /** @returns {Change[]} */
  get changes() {
    return [...this.#changes];
  }
}

/** The camera part of a change. @param {{speed?: number, cut_to?: number}} change */
function cameraOf({ speed, cut_to }) {
  return { ...(speed === undefined ? {} : { speed }), ...(cut_to === undefined ? {} : { cut_to }) };
}

/** The link's part after `#`; null if there are too many changes for a link. @param {Scene} scene */
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
 * A trouble that says what differs from when the link was made; null if it generates the same pictures.
 * @param {Maker} made from the link, "" for missing fields
 * @param {Maker} here
 */
export function madeElsewhere(made, here) {
  if (made.model && made.model !== here.model) return { code: "other_model", message: `the link says ${made.model}, this server has ${here.model}` };
  if (made.by && here.by && made.by !== here.by) return { code: "other_weights", message: `the link says ${made.by}, this server has ${here.by}` };
  if (made.pafu && here.pafu && made.pafu !== here.pafu) return { code: "other_version", message: `the link says ${made.pafu}, this server is ${here.pafu}` };
  return null;
}

/** Parse the changes of a link; throws if they are invalid. @param {string} text @returns {Change[]} */
export function readLog(text) {
  const changes = JSON.parse(text || "[]");
  const whole = (/** @type {unknown} */ value) => value === undefined || Number.isInteger(value);
  const fine = (/** @type {any} */ { at, prompt, speed, cut_to }) =>
    Number.isInteger(at) && at >= 0 && ["undefined", "string"].includes(typeof prompt) && whole(speed) &&
    (cut_to === undefined || Number.isFinite(cut_to)) && (prompt ?? speed ?? cut_to) !== undefined;
  if (!Array.isArray(changes) || changes.length > MOST || !changes.every(fine)) throw new TypeError("no list of changes");
  return changes;
}

/** @typedef {{prompt: string, seed: string, log: string, until: string}} Address the fields of a link, "" for missing ones */

/** The changes of a link, and the chunk up to which they are replayed; throws if a field is damaged. @param {Address} address */
export function readLink({ seed, log, until }) {
  if (!/^\d{0,10}$/.test(seed) || !/^\d{0,6}$/.test(until)) throw new TypeError("no seed, or no chunk");
  return { changes: readLog(log), until: Number(until) };
}

/**
 * The changes of a link, if `request` still has its prompt and seed; throws as readLink.
 * @param {Address} address
 * @param {{prompt: string, seed: number}} request
 */
export function recalled(address, request) {
  const same = address.log && request.prompt === address.prompt && String(request.seed) === address.seed;
  return same ? readLink(address) : null;
}

/** Changes in the form of session.start. @param {Change[]} changes */
export function asInteractions(changes) {
  return changes.map(({ at, prompt, speed, cut_to }) => {
    const camera = cameraOf({ speed, cut_to });
    const event = { ...(prompt === undefined ? {} : { prompt }), ...(Object.keys(camera).length ? { multi_modal_data: { camera } } : {}) };
    return { at_chunk: at, event };
  });
}
