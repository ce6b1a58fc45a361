// The next video's first picture: dropped on the page or chosen in a dialog, and scaled for the server.

import { byId } from "./dom.js";

const MOST_BYTES = 40 * 2 ** 20; // of a file
const LEAST_SIDE = 16; // pixels: the server's minimum
const LONGEST_SIDE = 1600; // sent to the server, which crops it to the model's size
const THUMB_HEIGHT = 28;

/** @typedef {import("./errors.js").Trouble} Trouble */

/** `say(text)` shows a status, `failed(trouble)` why a file was refused, `fine()` that one was accepted. */
export class StartPicture {
  #button = byId("start-picture", HTMLButtonElement);
  #file = byId("start-file", HTMLInputElement);
  #thumb = byId("start-thumb", HTMLCanvasElement);
  #say;
  #failed;
  #fine;
  #url = ""; // data URL to send; "" for none
  #taken = 0; // number of files so far: only the newest counts

  /** @param {{say: (text: string) => void, failed: (trouble: Trouble) => void, fine: () => void}} told */
  constructor({ say, failed, fine }) {
    this.#say = say;
    this.#fine = fine;
    this.#failed = failed;
    this.#button.addEventListener("click", () => (this.#url ? this.#clear() : this.#file.click()));
    this.#file.addEventListener("change", () => this.#take(this.#file.files?.[0]));
    document.addEventListener("dragover", (event) => this.#over(event, true));
    document.addEventListener("dragleave", (event) => event.relatedTarget || this.#over(event, false));
    document.addEventListener("drop", (event) => {
      this.#over(event, false);
      this.#take(event.dataTransfer?.files[0]);
    });
  }

  /** The picture for session.start and POST /v1/videos; "" for none. */
  get url() {
    return this.#url;
  }

  /** @param {DragEvent} event @param {boolean} over */
  #over(event, over) {
    event.preventDefault();
    document.body.classList.toggle("dropping", over);
  }

  #clear() {
    this.#url = this.#file.value = "";
    this.#show();
    this.#say("The next video begins without a picture.");
  }

  /** @param {File | undefined} file */
  async #take(file) {
    const turn = ++this.#taken;
    try {
      const picture = await read(file);
      if (turn !== this.#taken) return;
      this.#url = drawn(document.createElement("canvas"), picture, LONGEST_SIDE / Math.max(picture.width, picture.height)).toDataURL("image/jpeg", 0.92);
      drawn(this.#thumb, picture, THUMB_HEIGHT / picture.height);
      this.#show();
      this.#fine();
      this.#say("The next video begins with this picture.");
    } catch (trouble) {
      this.#file.value = "";
      this.#failed(/** @type {Trouble} */ (trouble));
    }
  }

  #show() {
    this.#button.setAttribute("aria-pressed", String(Boolean(this.#url)));
    this.#thumb.hidden = !this.#url;
    byId("start-label").textContent = this.#url ? "Begin without it" : "Begin with a picture";
  }
}

/** @param {string} message @returns {Trouble} */
const refused = (message) => ({ code: "bad_picture", message });

/** @param {File | undefined} file @returns {Promise<ImageBitmap>} upright; throws {code, message}. */
async function read(file) {
  if (!file) throw refused("This is not a file: save the picture first, then drop it.");
  if (!file.type.startsWith("image/")) throw refused(`“${file.name}” is not a picture.`);
  if (file.size > MOST_BYTES) throw refused(`“${file.name}” has ${Math.round(file.size / 2 ** 20)} MiB; the limit is ${MOST_BYTES / 2 ** 20} MiB.`);
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw refused(`This browser cannot read “${file.name}”: it is damaged, too large, or of an unknown format.`);
  });
  const { width, height } = picture;
  if (Math.min(width, height) < LEAST_SIDE) throw refused(`“${file.name}” has ${width}x${height} pixels; each side needs at least ${LEAST_SIDE}.`);
  return picture;
}

/** Draw the picture at its own size, or smaller. @param {HTMLCanvasElement} canvas @param {ImageBitmap} picture @param {number} scale */
function drawn(canvas, picture, scale) {
  const factor = Math.min(1, scale);
  Object.assign(canvas, { width: Math.max(1, Math.round(picture.width * factor)), height: Math.max(1, Math.round(picture.height * factor)) });
  canvas.getContext("2d")?.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}
