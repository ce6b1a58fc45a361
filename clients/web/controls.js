// The page's controls: they turn keys, pointers and words into wishes and know nothing of sockets or video.

import { SPEEDS } from "./camera.js";
import { byId } from "./dom.js";
import { PromptHistory } from "./history.js";
import { insertWord, join } from "./prompt.js";

const SWIPE = 24; // pixels that a finger moves before the camera does
const press = (buttons, chosen) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
const typing = (target) => target.closest?.("textarea, input, select") !== null;

/**
 * Camera buttons and keys. Calls `wish(speed)`: pixels a picture, positive to the right, 0 on release.
 */
export class CameraControls {
  #wish;
  #pace = "steady";
  #held = new Map(); // what is held down -> direction; the newest decides
  #paces = [...byId("speeds").querySelectorAll("button")];
  #keep = byId("keep");

  constructor(wish) {
    this.#wish = wish;
    this.#bindButton(byId("pan-left"), -1);
    this.#bindButton(byId("pan-right"), 1);
    this.#paces.forEach((button) => button.addEventListener("click", () => this.#setPace(button.dataset.speed)));
    this.#keep.addEventListener("click", () => this.#toggleKeep());
    byId("hold").addEventListener("click", () => this.#wish(0));
    this.#bindSwipe(byId("picture"));
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("keyup", (event) => this.#release(event.key));
    addEventListener("blur", () => this.#releaseAll());
  }

  /** Whether the model has a camera at all. */
  set offered(yes) {
    /** @type {HTMLElement} */ (this.#keep.closest(".tool")).hidden = !yes;
    for (const id of ["pan-left", "pan-right"]) byId(id).hidden = !yes;
  }

  /** Show where the camera really goes, pixels a picture. */
  show(speed) {
    byId("pan-left").classList.toggle("moving", speed < 0);
    byId("pan-right").classList.toggle("moving", speed > 0);
  }

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

  // A finger that moves over the picture drags the world along: to the left means that the camera goes right.
  #bindSwipe(picture) {
    let from = null;
    picture.addEventListener("pointerdown", ({ pointerType, clientX }) => (from = pointerType === "touch" ? clientX : null));
    picture.addEventListener("pointermove", ({ clientX, pointerId }) => {
      if (from === null || Math.abs(clientX - from) < SWIPE) return;
      picture.setPointerCapture(pointerId);
      const direction = clientX < from ? 1 : -1;
      if (this.#held.get(picture)?.direction !== direction) this.#hold(picture, direction);
      from = clientX + direction * SWIPE; // turning back takes as far again
    });
    const end = (event) => {
      from = null;
      if (!this.#held.has(picture)) return;
      if (event.type === "pointerup") picture.addEventListener("click", (click) => click.stopImmediatePropagation(), { once: true, capture: true });
      this.#release(picture);
    };
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) picture.addEventListener(type, end);
  }

  #keyDown(event) {
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      if (!event.repeat) this.#hold(event.key, event.key === "ArrowLeft" ? -1 : 1, event.shiftKey);
    } else if ((event.key === "ArrowUp" || event.key === "ArrowDown") && event.target.id === "stage") {
      event.preventDefault();
      this.#stepPace(event.key === "ArrowUp" ? 1 : -1);
    }
  }

  #hold(what, direction, hurry = false) {
    this.#held.delete(what);
    this.#held.set(what, { direction, hurry });
    this.#steer();
  }

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

  #stepPace(step) {
    const names = Object.keys(SPEEDS);
    const index = names.indexOf(this.#pace) + step;
    this.#setPace(names[Math.max(0, Math.min(names.length - 1, index))]);
  }

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

/** The prompt box with its examples and words. Calls `changed(text)` whenever the text changes. */
export class PromptBox {
  #box = byId("prompt", HTMLTextAreaElement);
  #history = new PromptHistory();
  #changed;

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

  /** Remember a prompt that was sent: arrow up in the box brings it back. */
  remember(text) {
    this.#history.add(text);
  }

  // Only from the first line upwards and from the last one downwards: inside a text the arrows move the caret.
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

  set limit(characters) {
    this.#box.maxLength = characters;
  }

  /** Offer `examples` (whole prompts) and `words` ({group: [phrase]}). */
  offer(examples, words) {
    byId("examples").replaceChildren(...examples.map((text) => chip(text, () => this.#take(text))));
    byId("words").replaceChildren(...Object.entries(words).map(([group, list]) => this.#group(group, list)));
    byId("vocabulary").hidden = Object.keys(words).length === 0;
  }

  #take(text) {
    this.text = text;
    this.focus();
  }

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

  #add(phrase, group) {
    const sentence = group === "camera";
    const edit = sentence ? { text: join(this.#box.value, phrase, ";") } : insertWord(this.#box.value, phrase, this.#box.selectionStart);
    this.text = edit.text;
    const caret = edit.caret ?? edit.text.length;
    this.#box.setSelectionRange(caret, caret);
  }
}

/** The four light buttons. Calls `choose(light)`. */
export class LightControls {
  #buttons = [...byId("lights").querySelectorAll("button")];

  constructor(choose) {
    this.#buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.light)));
  }

  show(light) {
    press(this.#buttons, this.#buttons.find((button) => button.dataset.light === light));
    if (light) document.body.dataset.light = light;
  }
}

/** Keys of the whole page that are not about the camera. */
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

function act(event, action) {
  event.preventDefault();
  action();
}

function chip(text, click) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.textContent = text;
  button.addEventListener("click", click);
  return button;
}
