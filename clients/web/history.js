// The prompts sent in this browser, newest last, for the prompt box.

const NAME = "pafu-prompts";
const MOST = 50;

export class PromptHistory {
  #texts = stored();
  #at = this.#texts.length; // index of the prompt in the box; the length means the draft
  #draft = "";

  /** Add `text` as the newest; a repeated text is kept once. @param {string} text */
  add(text) {
    this.#texts = [...this.#texts.filter((known) => known !== text), text].slice(-MOST);
    this.#at = this.#texts.length;
    try {
      localStorage.setItem(NAME, JSON.stringify(this.#texts));
    } catch {
      // without storage, prompts last as long as the page
    }
  }

  /** The previous prompt, or null at the oldest; `draft` is the text in the box now. @param {string} draft */
  older(draft) {
    if (this.#at === this.#texts.length) this.#draft = draft;
    const before = this.#texts.slice(0, this.#at).findLastIndex((text) => text !== draft);
    if (before < 0) return null;
    this.#at = before;
    return this.#texts[before];
  }

  /** The next prompt, finally the draft; null if there is none. */
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
