// Exports: the recording as a file, a still, a loop, a small window, links, and the scene as a job.

import { bindButtons } from "./controls.js";
import { brush, byId } from "./dom.js";
import { LOOP_SECONDS, loopOf } from "./loop.js";
import { copied } from "./page.js";
import { makeJob, videoOf } from "./server.js";

const JOB_SECONDS = 10;
const JOB_EVERY_MS = 2_000;

/**
 * Buttons of the section `along`. `scene(more)` returns the present scene (Stream.scene); `say(text)` shows progress,
 * `failed(trouble)` errors.
 */
export class TakeAlong {
  #video = byId("picture", HTMLVideoElement);
  #reel;
  #scene;
  #say;
  #failed;

  /**
   * @param {import("./reel.js").Reel} reel
   * @param {{scene: (more: number) => ReturnType<import("./stream.js").Stream["scene"]>, say: (text: string) => void,
   *   failed: (trouble: import("./errors.js").Trouble) => void}} _
   */
  constructor(reel, { scene, say, failed }) {
    this.#reel = reel;
    this.#scene = scene;
    this.#say = say;
    this.#failed = failed;
    const link = () => this.#scene(0).link;
    bindButtons({
      "take-video": () => this.#takeVideo(),
      "take-still": () => this.#takeStill(),
      "take-loop": () => this.#busy("take-loop", () => this.#takeLoop()),
      "take-link": () => this.#copy(link(), "Link copied: it paints this scene again, as it is now."),
      "take-embed": () => this.#copy(embedCode(link()), "Code copied. The server must allow the other page's origin: PAFU_ALLOWED_ORIGINS."),
      "take-job": () => this.#busy("take-job", () => this.#takeJob()),
      "take-window": () => this.#smallWindow(),
    });
    byId("take-window").hidden = !document.pictureInPictureEnabled;
  }

  #takeVideo() {
    download(this.#reel.mp4(), this.#name("mp4"));
    const lost = Math.round(this.#reel.lost);
    this.#say(lost ? `Saved without the first ${lost} seconds, which no longer fit into the recording.` : "Saved: everything painted so far.");
  }

  #takeStill() {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: this.#video.videoWidth, height: this.#video.videoHeight });
    brush(canvas).drawImage(this.#video, 0, 0);
    canvas.toBlob((picture) => picture && download(picture, this.#name("png")), "image/png");
    this.#say("Saved: this picture.");
  }

  async #smallWindow() {
    try {
      if (document.pictureInPictureElement) await document.exitPictureInPicture();
      else await this.#video.requestPictureInPicture();
    } catch (error) {
      this.#say(`This browser opens no small window: ${/** @type {Error} */ (error).message}`);
    }
  }

  /** @param {string | null} text @param {string} done */
  async #copy(text, done) {
    if (text === null) return this.#say("A link cannot hold this scene: it began with a picture, or has too many changes. Save the video instead.");
    this.#say((await copied(text)) ? done : text);
  }

  async #takeLoop() {
    this.#say("Making the loop.");
    download(await loopOf(this.#reel.newest(LOOP_SECONDS), this.#scene(0).mime), this.#name("webp"));
    this.#say("Saved: the last seconds as an animated picture.");
  }

  async #takeJob() {
    const { job: order } = this.#scene(JOB_SECONDS);
    let job = await makeJob(order);
    while (["queued", "in_progress"].includes(job.status)) {
      this.#say(job.status === "queued" ? "The job is queued." : `The job is at ${job.progress} %; live streams have priority.`);
      await new Promise((resolve) => setTimeout(resolve, JOB_EVERY_MS));
      job = await videoOf(job.id);
    }
    if (job.status !== "completed") throw job.error ?? { code: "job_failed", message: job.status };
    download(await videoOf(job.id, "content"), `${job.id}.mp4`);
    this.#say(`Saved: this scene from its beginning, and ${JOB_SECONDS} seconds more.`);
  }

  /** Run one export at a time, and show its errors. @param {string} id of the button @param {() => Promise<void>} work */
  async #busy(id, work) {
    const button = byId(id, HTMLButtonElement);
    button.disabled = true;
    await work().catch((trouble) => {
      this.#say("");
      this.#failed(trouble.code ? trouble : { code: "internal_error", message: String(trouble) });
    });
    button.disabled = false;
  }

  /** @param {string} ending */
  #name(ending) {
    return `pafu-${this.#scene(0).seed || "video"}.${ending}`;
  }
}

/** HTML code of a frame that plays this scene on another page. @param {string | null} link */
export function embedCode(link) {
  return link && `<iframe src="${link.replaceAll("&", "&amp;")}" width="640" height="480" allow="fullscreen; picture-in-picture" title="Pafu"></iframe>`;
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
