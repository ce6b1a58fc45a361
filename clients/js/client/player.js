// Playback control: start, keep up, slow down, skip gaps.

import { Decoder } from "./decoder.js";
import { Pace } from "./pace.js";

const START_WITH = 1.0; // seconds buffered before the first play; the first picture shows before that
const START_ANYWAY_MS = 1500; // after this long, play whatever is there
const TOO_FAR = 4.0; // seconds of lead that mean the playhead fell behind
const LAND_AT = 1.0; // seconds of lead after a jump forward
const GAP = 0.12; // seconds; browsers skip smaller gaps themselves
const STUCK_MS = 1200; // of a playhead that does not move although pictures follow
const TICK_MS = 200;
const KEEPING_STEP = 0.8; // slowest rate of a player that waits for the other one
const NOTHING_AHEAD = 0.05; // seconds of lead that count as none

/**
 * Plays one stream in a <video>. Events: firstpicture, playing, progress, waiting, pace [number], ended, blocked (the browser
 * needs a user gesture), failed [message]. Positions and leads are in seconds of media time.
 */
export class Player extends EventTarget {
  #video;
  #decoder;
  #pace = new Pace();
  #received = 0; // seconds of media received
  #begunAt = 0;
  #running = false;
  #playing = false;
  #held = false; // paused by the viewer
  /** Seconds by which it is ahead of the player that it is synchronized with. */
  ahead = 0;
  #still = { at: 0, since: 0 };
  #timer = 0;

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    super();
    this.#video = video;
    this.#decoder = new Decoder(video, () => this.#startAgain(), (reason) => this.#fail(reason));
    video.addEventListener("loadeddata", () => this.#running && this.#emit("firstpicture"));
    video.addEventListener("playing", () => this.#emit("playing"));
    video.addEventListener("timeupdate", () => this.#running && this.#emit("progress"));
    video.addEventListener("waiting", () => this.#running && this.#emit("waiting"));
    video.addEventListener("ended", () => this.#end());
  }

  get position() {
    return this.#decoder.position;
  }

  /** The position to report to the server: received media that cannot be shown (damaged) counts as played. */
  get playhead() {
    const ahead = this.#decoder.busy || this.lead > NOTHING_AHEAD;
    return ahead ? this.position : Math.max(this.position, this.#received);
  }

  /** Seconds of media received. */
  get received() {
    return this.#received;
  }

  /** Seconds buffered ahead of the playhead, or of the buffer's start if the playhead is before it. */
  get lead() {
    const { buffered } = this.#video;
    return buffered.length ? Math.max(0, this.#bufferedUntil - Math.max(this.position, buffered.start(0))) : 0;
  }

  get #bufferedUntil() {
    const { buffered } = this.#video;
    return buffered.length ? buffered.end(buffered.length - 1) : 0;
  }

  get framesShown() {
    return this.#video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0;
  }

  /** Begin a stream of type `mime`; throws when the browser cannot play it. @param {string} mime */
  begin(mime) {
    this.halt();
    this.#decoder.open(mime);
    this.#pace.begin();
    this.#received = 0;
    this.#playing = this.#held = false;
    this.#running = true;
    this.#begunAt = performance.now();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** The next fragment of the stream, and the seconds of media in it. @param {ArrayBuffer} data @param {number} seconds */
  append(data, seconds) {
    if (!this.#running) return;
    this.#received += seconds;
    if (this.#held) this.#pace.stand();
    else this.#pace.came(performance.now() / 1000, seconds, this.lead);
    this.#decoder.append(data);
  }

  /** No more fragments will come: play what is there, then end. */
  finish() {
    this.#decoder.finish();
  }

  /** Freeze on the current picture. */
  halt() {
    clearInterval(this.#timer);
    this.#running = false;
    this.#decoder.close();
    this.#video.pause();
  }

  /** Pause until `resume`; media received meanwhile is kept. */
  pause() {
    this.#held = true;
    this.#pace.stand();
    this.#video.pause();
  }

  /** Continue after `pause`, or after a user gesture if the browser blocked autoplay. */
  resume() {
    this.#held = false;
    this.#pace.stand();
    if (this.#running) this.#play();
  }

  #tick() {
    if (this.#video.readyState) this.#decoder.seek();
    if (this.#held) return;
    if (!this.#playing) return this.#maybeStart();
    this.#stepOverGap();
    this.#ease();
    this.#catchUp();
    this.#unstick();
  }

  #maybeStart() {
    const patience = performance.now() - this.#begunAt > START_ANYWAY_MS;
    if (this.lead >= START_WITH || (this.lead > 0 && (patience || this.#decoder.finishing))) this.#play();
  }

  async #play() {
    this.#playing = true;
    this.#still = { at: this.position, since: performance.now() };
    try {
      await this.#video.play();
    } catch (error) {
      if (/** @type {Error} */ (error).name === "NotAllowedError") this.#emit("blocked");
    }
  }

  #stepOverGap() {
    const { buffered, currentTime } = this.#video;
    for (let i = 0; i < buffered.length; i++) {
      if (currentTime < buffered.start(i)) {
        if (buffered.start(i) - currentTime > GAP || this.#video.readyState < 3) this.#video.currentTime = buffered.start(i) + 0.01;
        return;
      }
      if (currentTime < buffered.end(i) - 0.05) return;
    }
  }

  // Slow down instead of stalling if chunks arrive too slowly, or if the other player is behind.
  #ease() {
    const alone = this.#pace.tick(this.#decoder.finishing ? Infinity : this.lead);
    const pace = Math.min(alone, Math.max(KEEPING_STEP, 1 - this.ahead / 2));
    if (Math.abs(this.#video.playbackRate - pace) < 0.01) return;
    this.#video.playbackRate = pace;
    this.#emit("pace", alone);
  }

  #catchUp() {
    if (this.lead > TOO_FAR) this.#video.currentTime = this.#bufferedUntil - LAND_AT;
  }

  #unstick() {
    const now = performance.now();
    if (this.position !== this.#still.at || this.lead < 0.3) {
      if (this.lead >= 0.3) this.#decoder.healthy();
      this.#still = { at: this.position, since: now };
    } else if (now - this.#still.since > STUCK_MS) {
      this.#still.since = now;
      if (this.#video.paused) this.#play();
      else this.#video.currentTime = this.position + 0.05;
    }
  }

  // The next decoder starts where the previous one failed.
  #startAgain() {
    this.#playing = false;
    this.#begunAt = performance.now();
  }

  /** @param {string} reason */
  #fail(reason) {
    this.halt();
    this.#emit("failed", reason);
  }

  #end() {
    if (!this.#running) return;
    this.halt();
    this.#emit("ended");
  }

  /** @param {string} type @param {unknown} [detail] */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
