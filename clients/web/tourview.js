// The tour's view: a button sends the camera away and back, and shows the place before and after, side by side.

import { brush, byId } from "./dom.js";
import { AWAY, likeness, pictureDue, planTour, tourWords } from "./tour.js";

const LOOK_MS = 40;

/** `steer({speed, at})` moves the camera; `say(text)` shows progress. */
export class TourView {
  #video = byId("picture", HTMLVideoElement);
  #button = byId("tour", HTMLButtonElement);
  #section = byId("tour-pictures");
  #away = byId("tour-away", HTMLSelectElement);
  #timeline;
  #steer;
  #say;
  /** @type {import("./tour.js").Plan | null} */
  #plan = null;
  /** @type {import("./tour.js").Picture[]} */
  #kept = [];
  #timer = 0;

  /**
   * @param {import("./timeline.js").Timeline} timeline of the received chunks
   * @param {(order: import("./tour.js").Order) => void} steer
   * @param {(text: string) => void} say
   */
  constructor(timeline, steer, say) {
    this.#timeline = timeline;
    this.#steer = steer;
    this.#say = say;
    this.#away.replaceChildren(...AWAY.map((seconds) => new Option(`${seconds} s`, String(seconds))));
    this.#button.addEventListener("click", () => this.#begin());
    byId("tour-close").addEventListener("click", () => (this.#section.hidden = true));
  }

  /** Enable or disable the button: whether there is a stream. @param {boolean} yes */
  set offered(yes) {
    this.#button.disabled = !yes || this.#plan !== null;
    if (!yes) this.#end();
  }

  #begin() {
    const { next, chunkSeconds } = this.#timeline;
    const plan = planTour({ next, chunkSeconds, away: Number(this.#away.value) });
    this.#plan = plan;
    this.#kept = [];
    this.#section.hidden = true;
    this.#button.disabled = true;
    plan.orders.forEach((order) => this.#steer(order));
    this.#timer = setInterval(() => this.#look(plan), LOOK_MS);
  }

  #end() {
    clearInterval(this.#timer);
    this.#plan = null;
  }

  /** @param {import("./tour.js").Plan} plan */
  #look(plan) {
    const playing = this.#timeline.chunkAt(this.#video.currentTime);
    if (playing < this.#timeline.next) this.#say(tourWords(plan, playing));
    const due = pictureDue(plan, playing, this.#kept);
    if (!due || !this.#video.videoWidth) return;
    this.#keep(due);
    if (due === "after") this.#show();
  }

  /** @param {import("./tour.js").Picture} name */
  #keep(name) {
    this.#kept.push(name);
    const canvas = byId(`tour-${name}`, HTMLCanvasElement);
    Object.assign(canvas, { width: this.#video.videoWidth, height: this.#video.videoHeight });
    brush(canvas, { willReadFrequently: true }).drawImage(this.#video, 0, 0);
  }

  #show() {
    const pixels = (/** @type {import("./tour.js").Picture} */ name) => {
      const canvas = byId(`tour-${name}`, HTMLCanvasElement);
      return brush(canvas).getImageData(0, 0, canvas.width, canvas.height).data;
    };
    const alike = likeness(pixels("before"), pixels("after"));
    const shown = Number.isFinite(alike) ? `similarity ${alike.toFixed(1)} dB` : "the same picture";
    byId("tour-words").textContent = `Back after ${this.#away.value} s: ${shown}. A higher similarity means better memory.`;
    this.#end();
    this.#button.disabled = false;
    this.#section.hidden = false;
    this.#section.scrollIntoView({ block: "nearest" });
    this.#say("Back again: see before and after below the picture.");
  }
}
