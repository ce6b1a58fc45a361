// A scene as an address: words, seed, model, and what was changed at which chunk. The same again paints the same pictures.

const MOST = 64; // changes that a server takes at the beginning

/**
 * @typedef {{at: number, prompt?: string, speed?: number, cut_to?: number}} Change
 * @typedef {{prompt: string, seed: string, model: string, changes: Change[], until: number}} Scene
 */

/** What was changed in one stream, in the order in which it came into force. */
export class SceneLog {
  #told = new Map(); // event id -> the change, not in force yet
  #changes = [];

  clear() {
    this.#told.clear();
    this.#changes = [];
  }

  /** @param {string | null} id @param {{prompt?: string, camera?: {speed?: number, cut_to?: number}}} change */
  told(id, { prompt, camera }) {
    if (id) this.#told.set(id, { ...(prompt === undefined ? {} : { prompt }), ...camera });
  }

  applied(id, chunk) {
    const change = this.#told.get(id);
    this.#told.delete(id);
    if (change) this.#changes.push({ at: chunk, ...change });
  }

  /** Known from the beginning: what a link said. @param {Change[]} changes */
  begin(changes) {
    changes.forEach((change, place) => this.#told.set(`evt_start_${place}`, without(change, "at")));
  }

  /** @returns {Change[]} */
  get changes() {
    return [...this.#changes];
  }
}

function without(object, name) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => key !== name));
}

/** The part of an address behind `#`. Null when there are too many changes for one. @param {Scene} scene */
export function sceneHash({ prompt, seed, model, changes, until }) {
  if (changes.length > MOST) return null;
  const fields = { prompt, seed, ...(model ? { model } : {}) };
  const log = changes.length || until ? { log: JSON.stringify(changes), until: String(until) } : {};
  return `#${new URLSearchParams({ ...fields, ...log })}`;
}

/** The changes of an address; throws for a text that says none. @returns {Change[]} */
export function readLog(text) {
  const changes = JSON.parse(text || "[]");
  const whole = (value) => value === undefined || Number.isInteger(value);
  const fine = ({ at, prompt, speed, cut_to }) =>
    Number.isInteger(at) && at >= 0 && ["undefined", "string"].includes(typeof prompt) && whole(speed) &&
    (cut_to === undefined || Number.isFinite(cut_to)) && (prompt ?? speed ?? cut_to) !== undefined;
  if (!Array.isArray(changes) || changes.length > MOST || !changes.every(fine)) throw new TypeError("no list of changes");
  return changes;
}

/** Changes as session.start takes them. @param {Change[]} changes */
export function asInteractions(changes) {
  return changes.map(({ at, prompt, speed, cut_to }) => {
    const camera = { ...(speed === undefined ? {} : { speed }), ...(cut_to === undefined ? {} : { cut_to }) };
    const event = { ...(prompt === undefined ? {} : { prompt }), ...(Object.keys(camera).length ? { multi_modal_data: { camera } } : {}) };
    return { at_chunk: at, event };
  });
}
