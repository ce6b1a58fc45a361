// The prompts of this browser, newest last: the prompt box leafs through them.

const NAME = "pafu-prompts";
const MOST = 50;

export class PromptHistory {
  #texts = stored();
  #at = this.#texts.length; // where the box stands; the length means: what is being written
  #draft = "";

  /** Keep `text` as the newest; the same text twice is kept once. @param {string} text */
  add(text) {
    this.#texts = [...this.#texts.filter((known) => known !== text), text].slice(-MOST);
    this.#at = this.#texts.length;
    try {
      localStorage.setItem(NAME, JSON.stringify(this.#texts));
    } catch {
      // a browser that stores nothing remembers while the page is open
    }
  }

  /** The one before, or null at the oldest; `draft` is what stands in the box now. @param {string} draft */
  older(draft) {
    if (this.#at === this.#texts.length) this.#draft = draft;
    const before = this.#texts.slice(0, this.#at).findLastIndex((text) => text !== draft);
    if (before < 0) return null;
    this.#at = before;
    return this.#texts[before];
  }

  /** The one after, at last the draft; null when there is none. */
  newer() {
    if (this.#at >= this.#texts.length) return null;
    this.#at++;
    return this.#texts[this.#at] ?? this.#draft;
  }
}

/** @returns {string[]} */
function stored() {
  try {
    const texts = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(texts) ? texts.filter((text) => typeof text === "string") : [];
  } catch {
    return [];
  }
}
