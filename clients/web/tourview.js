// The tour's view: a button sends the camera away and back, and shows the place before and after, side by side.

import { brush, byId } from "./dom.js";
import { AWAY, likeness, pictureDue, planTour, tourWords } from "./tour.js";

const LOOK_MS = 40;

/** @typedef {{video: HTMLVideoElement, name: HTMLElement, id: string}} View a playing video, its policy's name, the prefix of its pictures' ids */

/** `steer({speed, at})` moves the camera; `say(text)` shows progress. */
export class TourView {
  #video = byId("picture", HTMLVideoElement);
  /** @type {View} */
  #own = { video: this.#video, name: byId("own-name"), id: "tour" };
  /** @type {View} */
  #rival = { video: byId("rival", HTMLVideoElement), name: byId("rival-name"), id: "rival" };
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

  /** Enable or disable the button: whether there is a stream that can be steered. @param {boolean} yes */
  set offered(yes) {
    this.#button.disabled = !yes || this.#plan !== null;
  }

  #begin() {
    const { next, chunkSeconds } = this.#timeline;
    const plan = planTour({ next, chunkSeconds, away: Number(this.#away.value) });
    this.#plan = plan;
    this.#kept = [];
    this.#section.hidden = true;
    this.#button.disabled = true;
    byId("stage").scrollIntoView({ block: "nearest" });
    plan.orders.forEach((order) => this.#steer(order));
    this.#timer = setInterval(() => this.#look(plan), LOOK_MS);
  }

  /** The tour, or the stream, is over. */
  end() {
    clearInterval(this.#timer);
    this.#plan = null;
  }

  /** @param {import("./tour.js").Plan} plan */
  #look(plan) {
    if (this.#video.paused) return;
    const playing = this.#timeline.chunkAt(this.#video.currentTime);
    if (playing < this.#timeline.next) this.#say(tourWords(plan, playing));
    const due = pictureDue(plan, playing, this.#kept);
    if (!due || !this.#video.videoWidth) return;
    this.#keep(due);
    if (due === "after") this.#show();
  }

  /** The videos on the page: one, or two policies side by side. */
  get #views() {
    return document.body.classList.contains("comparing") ? [this.#own, this.#rival] : [this.#own];
  }

  /** @param {import("./tour.js").Picture} name */
  #keep(name) {
    this.#kept.push(name);
    for (const { video, id } of this.#views) {
      const canvas = byId(`${id}-${name}`, HTMLCanvasElement);
      Object.assign(canvas, { width: this.#video.videoWidth, height: this.#video.videoHeight });
      brush(canvas, { willReadFrequently: true }).drawImage(video, 0, 0);
    }
  }

  #show() {
    const views = this.#views;
    const alike = views.map((view) => similarity(view, views.length > 1)).join(" and ");
    byId("tour-words").textContent = `Back after ${this.#away.value} s: similarity ${alike}. What moves by itself, like clouds, lowers it.`;
    byId("tour-rival").hidden = views.length < 2;
    for (const { id, name } of views) byId(`${id}-said`).textContent = views.length < 2 ? "before" : `${name.textContent}: before`;
    this.end();
    this.#button.disabled = false;
    this.#section.hidden = false;
    this.#section.scrollIntoView({ block: "nearest" });
    this.#say("Back again: see before and after below the picture.");
  }
}

/** How alike the place is before and after, in words. @param {View} view @param {boolean} named */
function similarity({ name, id }, named) {
  const [before, after] = ["before", "after"].map((each) => {
    const canvas = byId(`${id}-${each}`, HTMLCanvasElement);
    return brush(canvas).getImageData(0, 0, canvas.width, canvas.height).data;
  });
  const alike = likeness(before, after);
  const decibels = Number.isFinite(alike) ? `${alike.toFixed(1)} dB` : "infinite (the same picture)";
  return named ? `${decibels} (${name.textContent})` : decibels;
}
