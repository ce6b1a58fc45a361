// The API key, for servers with keys: stored for this tab only, and never sent over a live socket.

import { byId } from "./dom.js";

const NAME = "pafu-key";

/** The tab's storage; a browser may deny it in another page's frame, and the key then lasts as long as the page. */
const store = (() => {
  try {
    return sessionStorage;
  } catch {
    const kept = new Map();
    return { getItem: () => kept.get(NAME) ?? null, setItem: kept.set.bind(kept), removeItem: kept.delete.bind(kept) };
  }
})();

/** @returns {Record<string, string>} */
export function keyHeaders() {
  const key = store.getItem(NAME);
  return key ? { authorization: `Bearer ${key}` } : {};
}

export const hasKey = () => store.getItem(NAME) !== null;

/** The form that asks for the key; `given` is called when one was entered. */
export class KeyForm {
  #form = byId("key-form");
  #field = byId("key", HTMLInputElement);

  /** @param {() => void} given */
  constructor(given) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#field.value.trim()) return this.#field.focus();
      store.setItem(NAME, this.#field.value.trim());
      this.#field.value = "";
      this.#form.hidden = true;
      given();
    });
  }

  ask() {
    byId("key-again").hidden = !hasKey();
    store.removeItem(NAME);
    this.#form.hidden = false;
    this.#field.focus();
  }
}
