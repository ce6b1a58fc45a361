// A short loop of the last seconds: plays forwards, then backwards, so that it has no seam.

import { Source } from "./client/decoder.js";
import { brush } from "./dom.js";
import { animated } from "./webp.js";

const SECONDS = 3; // of the video; the loop lasts nearly twice as long
const RATE = 8; // pictures per second
const WIDEST = 320; // pixels
const QUALITY = 0.7;
const TYPE = "image/webp";

/** Seconds of media that a loop uses. */
export const LOOP_SECONDS = SECONDS + 1;

/**
 * The loop as an animated WebP. Throws {code, message} if the browser cannot write WebP.
 * @param {BlobPart[]} fragments init segment and fragments, the last of which ends the loop
 * @param {string} mime
 */
export async function loopOf(fragments, mime) {
  const video = document.createElement("video");
  const source = new /** @type {typeof MediaSource} */ (Source)();
  const url = URL.createObjectURL(source);
  Object.assign(video, { muted: true, disableRemotePlayback: true, src: url });
  try {
    await heard(source, "sourceopen");
    const buffer = source.addSourceBuffer(mime);
    const begun = heard(video, "loadedmetadata"); // a long reel has no media at its beginning
    buffer.appendBuffer(await new Blob(fragments).arrayBuffer());
    await heard(buffer, "updateend");
    await begun; // the video has no size before
    source.endOfStream();
    return await drawn(video);
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** @param {HTMLVideoElement} video */
async function drawn(video) {
  const { buffered, videoWidth, videoHeight } = video;
  const width = Math.min(WIDEST, videoWidth);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: Math.round((videoHeight * width) / videoWidth) });
  const stills = [];
  const end = buffered.end(0);
  for (let at = Math.max(buffered.start(0), end - SECONDS) + 0.5 / RATE; at < end; at += 1 / RATE) {
    const there = heard(video, "seeked");
    video.currentTime = at;
    await there;
    stills.push(await still(canvas, video));
  }
  const there_and_back = [...stills, ...stills.slice(1, -1).reverse()];
  return animated(there_and_back, { width: canvas.width, height: canvas.height, milliseconds: 1000 / RATE });
}

/** @param {HTMLCanvasElement} canvas @param {HTMLVideoElement} video */
async function still(canvas, video) {
  brush(canvas, { alpha: false }).drawImage(video, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ resolve) => canvas.toBlob(resolve, TYPE, QUALITY));
  if (blob?.type !== TYPE) throw { code: "no_webp", message: "" };
  return blob.arrayBuffer();
}

/** @param {EventTarget} target @param {string} type */
const heard = (target, type) => new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));
