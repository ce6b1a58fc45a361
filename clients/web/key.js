// The API key, for servers that want one: kept for this tab only, and never sent over a live socket.

import { byId } from "./dom.js";

const NAME = "pafu-key";

/** @returns {Record<string, string>} */
export function keyHeaders() {
  const key = sessionStorage.getItem(NAME);
  return key ? { authorization: `Bearer ${key}` } : {};
}

export const hasKey = () => sessionStorage.getItem(NAME) !== null;

/** The form that asks for the key; `given` is called when somebody wrote one. */
export class KeyForm {
  #form = byId("key-form");
  #field = byId("key", HTMLInputElement);

  /** @param {() => void} given */
  constructor(given) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#field.value.trim()) return this.#field.focus();
      sessionStorage.setItem(NAME, this.#field.value.trim());
      this.#field.value = "";
      this.#form.hidden = true;
      given();
    });
  }

  ask() {
    byId("key-again").hidden = !hasKey();
    sessionStorage.removeItem(NAME);
    this.#form.hidden = false;
    this.#field.focus();
  }
}
