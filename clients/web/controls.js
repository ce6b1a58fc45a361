// The page's controls: they turn keys, pointers and text into calls, and know nothing about sockets or video.

import { SPEEDS } from "./client/camera.js";
import { byId } from "./dom.js";
import { PromptHistory } from "./history.js";
import { insertWord, join } from "./prompt.js";

const SWIPE = 24; // pixels that a finger must move to move the camera
const press = (/** @type {HTMLElement[]} */ buttons, /** @type {HTMLElement | undefined} */ chosen) =>
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
const typing = (/** @type {EventTarget | null} */ target) => !(target instanceof Element) || target.closest("textarea, input, select") !== null;

/**
 * Camera buttons and keys. Calls `wish(speed)`: pixels per picture, positive to the right, 0 on release.
 */
export class CameraControls {
  #wish;
  #pace = "steady";
  /** @type {Map<Element | string, {direction: number, hurry: boolean}>} pressed buttons and keys; the newest decides */
  #held = new Map();
  #paces = [...byId("speeds").querySelectorAll("button")];
  #keep = byId("keep");

  /** @param {(speed: number) => void} wish */
  constructor(wish) {
    this.#wish = wish;
    this.#bindButton(byId("pan-left"), -1);
    this.#bindButton(byId("pan-right"), 1);
    this.#paces.forEach((button) => button.addEventListener("click", () => this.#setPace(button.dataset.speed ?? "steady")));
    this.#keep.addEventListener("click", () => this.#toggleKeep());
    byId("hold").addEventListener("click", () => this.#wish(0));
    this.#bindSwipe(byId("picture"));
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("keyup", (event) => this.#release(event.key));
    addEventListener("blur", () => this.#releaseAll());
  }

  /** Whether the model has a camera at all. @param {boolean} yes */
  set offered(yes) {
    /** @type {HTMLElement} */ (this.#keep.closest(".tool")).hidden = !yes;
    for (const id of ["pan-left", "pan-right", "tour"]) byId(id).hidden = !yes;
    /** @type {HTMLElement} */ (byId("tour-away").parentElement).hidden = !yes;
  }

  /** Show the camera's actual speed, pixels per picture. @param {number} speed */
  show(speed) {
    byId("pan-left").classList.toggle("moving", speed < 0);
    byId("pan-right").classList.toggle("moving", speed > 0);
  }

  /** @param {HTMLElement} button @param {number} direction */
  #bindButton(button, direction) {
    const let_go = () => this.#release(button);
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      this.#hold(button, direction);
    });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(type, let_go);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (!event.repeat) this.#hold(button, direction);
    });
    button.addEventListener("keyup", (event) => (event.key === "Enter" || event.key === " ") && let_go());
  }

  // A finger on the picture drags the world: dragging left moves the camera right.
  /** @param {HTMLElement} picture */
  #bindSwipe(picture) {
    /** @type {number | null} */
    let from = null;
    picture.addEventListener("pointerdown", ({ pointerType, clientX }) => (from = pointerType === "touch" ? clientX : null));
    picture.addEventListener("pointermove", ({ clientX, pointerId }) => {
      if (from === null || Math.abs(clientX - from) < SWIPE) return;
      picture.setPointerCapture(pointerId);
      const direction = clientX < from ? 1 : -1;
      if (this.#held.get(picture)?.direction !== direction) this.#hold(picture, direction);
      from = clientX + direction * SWIPE; // reversing needs the same distance again
    });
    const end = (/** @type {Event} */ event) => {
      from = null;
      if (!this.#held.has(picture)) return;
      if (event.type === "pointerup") picture.addEventListener("click", (click) => click.stopImmediatePropagation(), { once: true, capture: true });
      this.#release(picture);
    };
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) picture.addEventListener(type, end);
  }

  /** @param {KeyboardEvent} event */
  #keyDown(event) {
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      if (!event.repeat) this.#hold(event.key, event.key === "ArrowLeft" ? -1 : 1, event.shiftKey);
    } else if ((event.key === "ArrowUp" || event.key === "ArrowDown") && event.target === byId("stage")) {
      event.preventDefault();
      this.#stepPace(event.key === "ArrowUp" ? 1 : -1);
    }
  }

  /** @param {Element | string} what @param {number} direction */
  #hold(what, direction, hurry = false) {
    this.#held.delete(what);
    this.#held.set(what, { direction, hurry });
    this.#steer();
  }

  /** @param {Element | string} what */
  #release(what) {
    if (!this.#held.delete(what)) return;
    if (this.#held.size || this.#keep.getAttribute("aria-pressed") !== "true") this.#steer();
  }

  #releaseAll() {
    if (!this.#held.size) return;
    this.#held.clear();
    this.#steer();
  }

  #steer() {
    const newest = [...this.#held.values()].at(-1);
    this.#wish(newest ? newest.direction * SPEEDS[newest.hurry ? "fast" : this.#pace] : 0);
  }

  /** @param {number} step */
  #stepPace(step) {
    const names = Object.keys(SPEEDS);
    const index = names.indexOf(this.#pace) + step;
    this.#setPace(names[Math.max(0, Math.min(names.length - 1, index))]);
  }

  /** @param {string} pace */
  #setPace(pace) {
    this.#pace = pace;
    press(this.#paces, this.#paces.find((button) => button.dataset.speed === pace));
    if (this.#held.size) this.#steer();
  }

  #toggleKeep() {
    const on = this.#keep.getAttribute("aria-pressed") !== "true";
    this.#keep.setAttribute("aria-pressed", String(on));
    if (!on && !this.#held.size) this.#wish(0);
  }
}

/** The prompt box with its words. Calls `changed(text)` whenever the text changes. */
export class PromptBox {
  #box = byId("prompt", HTMLTextAreaElement);
  #history = new PromptHistory();
  #changed;

  /** @param {(text: string) => void} changed */
  constructor(changed) {
    this.#changed = changed;
    this.#box.addEventListener("input", () => changed(this.text));
    this.#box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        byId("caption", HTMLFormElement).requestSubmit();
      } else if (event.key === "Escape") byId("stage").focus();
      else if (event.key === "ArrowUp" || event.key === "ArrowDown") this.#leaf(event);
    });
  }

  /** Remember a sent prompt: arrow up in the box brings it back. @param {string} text */
  remember(text) {
    this.#history.add(text);
  }

  // Only up from the first line and down from the last one: inside a text the arrows move the caret.
  /** @param {KeyboardEvent} event */
  #leaf(event) {
    const { value, selectionStart: caret } = this.#box;
    const up = event.key === "ArrowUp";
    if (event.shiftKey || (up ? value.slice(0, caret) : value.slice(caret)).includes("\n")) return;
    if (up ? caret > 0 && caret < value.length : caret < value.length) return;
    const text = up ? this.#history.older(this.text) : this.#history.newer();
    if (text === null) return;
    event.preventDefault();
    this.text = text;
    this.#box.setSelectionRange(text.length, text.length);
  }

  get text() {
    return this.#box.value.replace(/\s+/g, " ").trim();
  }

  set text(value) {
    this.#box.value = value;
    this.#changed(this.text);
  }

  focus() {
    this.#box.focus();
  }

  /** @param {number} characters */
  set limit(characters) {
    this.#box.maxLength = characters;
  }

  /** Offer these words by group. @param {Record<string, string[]>} words */
  offer(words) {
    byId("words").replaceChildren(...Object.entries(words).map(([group, list]) => this.#group(group, list)));
    byId("vocabulary").hidden = Object.keys(words).length === 0;
  }

  /** @param {string} name @param {string[]} phrases */
  #group(name, phrases) {
    const row = document.createElement("div");
    row.className = "words";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", name);
    const title = document.createElement("span");
    title.textContent = name;
    row.append(title, ...phrases.map((phrase) => chip(phrase, () => this.#add(phrase, name))));
    return row;
  }

  /** @param {string} phrase @param {string} group */
  #add(phrase, group) {
    const { value, selectionStart } = this.#box;
    const whole = join(value, phrase, ";"); // a camera phrase goes to the end
    const { text, caret } = group === "camera" ? { text: whole, caret: whole.length } : insertWord(value, phrase, selectionStart);
    this.text = text;
    this.#box.setSelectionRange(caret, caret);
  }
}

/** The four light buttons. Calls `choose(light)`. */
export class LightControls {
  #buttons = [...byId("lights").querySelectorAll("button")];

  /** @param {(light: import("./prompt.js").Light) => void} choose */
  constructor(choose) {
    this.#buttons.forEach((button) => button.addEventListener("click", () => choose(/** @type {any} */ (button.dataset.light))));
  }

  /** @param {import("./prompt.js").Light | null} light */
  show(light) {
    press(this.#buttons, this.#buttons.find((button) => button.dataset.light === light));
    if (light) document.body.dataset.light = light;
  }
}

/** Click handlers by element id. @param {Record<string, () => unknown>} actions */
export function bindButtons(actions) {
  for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", () => action());
}

/** Keys of the whole page other than the camera's. @param {Record<"toggle" | "stop" | "fullscreen" | "write" | "memory" | "keys", () => void>} _ */
export function bindPageKeys({ toggle, stop, fullscreen, write, memory, keys }) {
  document.addEventListener("keydown", (event) => {
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === " " && /** @type {Element} */ (event.target).closest("button, summary, a") === null) act(event, toggle);
    else if (event.key === "s" || event.key === "S") act(event, stop);
    else if (event.key === "f" || event.key === "F") act(event, fullscreen);
    else if (event.key === "m" || event.key === "M") act(event, memory);
    else if (event.key === "?") act(event, keys);
    else if (event.key === "/") act(event, write);
  });
}

/** @param {Event} event @param {() => void} action */
function act(event, action) {
  event.preventDefault();
  action();
}

/** @param {string} text @param {() => void} click */
function chip(text, click) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.textContent = text;
  button.addEventListener("click", click);
  return button;
}
