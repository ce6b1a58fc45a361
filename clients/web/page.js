// Writes a view (state.js) and troubles into the document.

import { byId } from "./dom.js";
import { explain } from "./errors.js";
import { sentence } from "./state.js";

/**
 * Write `view(state)` into the document. Only changes are written, so that screen readers do not repeat the rest.
 * @param {ReturnType<typeof import("./state.js").view>} view
 */
export function paint(view) {
  document.body.dataset.phase = view.phase;
  document.body.classList.toggle("paused", view.paused);
  document.body.classList.toggle("stumbling", view.trouble);
  byId("stage").classList.toggle("kept", view.kept);
  write("status", view.status);
  write("slow", view.slow);
  byId("slow").hidden = !view.slow;
  write("prompt-note", view.note);
  byId("wait").hidden = view.wait === null;
  if (view.wait !== null) write("wait-text", view.wait);
  write("pause", view.paused ? "Resume" : "Pause");
  byId("begin").setAttribute("aria-label", view.paused ? "Resume" : "Play");
  byId("begin").hidden = !view.begin;
  byId("stop").hidden = !view.canStop;
  byId("along").hidden = !view.kept;
  byId("pause").hidden = byId("share").hidden = !view.canPause;
  write("send", view.send);
  byId("send", HTMLButtonElement).disabled = !view.canSend;
}

/** @param {string} id @param {string} text */
function write(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/** Say what went wrong, and what to do. @param {import("./errors.js").Trouble} trouble */
export function showTrouble(trouble) {
  const { title, hint, detail } = explain(trouble);
  write("trouble-title", `${title}.`);
  write("trouble-hint", hint);
  write("trouble-detail", sentence(detail));
  byId("trouble").hidden = false;
}

export function hideTrouble() {
  byId("trouble").hidden = true;
}

/** Update the picture's label: the prompt and the camera's motion. @param {import("./client/messages.js").ServedStats} stats */
export function labelPicture({ prompt, camera }) {
  const moves = camera.speed ? `the camera moves ${camera.speed < 0 ? "left" : "right"}` : "the camera is at rest";
  const label = `The generated video: ${prompt || "no prompt"}; ${moves}`;
  if (byId("picture").getAttribute("aria-label") !== label) byId("picture").setAttribute("aria-label", label);
}

/** What the seed added to the prompt. @param {{prompt: string, told?: string}} stats */
export function showTold({ prompt, told }) {
  const words = told && told !== prompt ? `The model is told: ${told}.` : "";
  if (byId("told-words").textContent !== words) byId("told-words").textContent = words;
}

/**
 * Give the player the aspect ratio of the pictures.
 * @param {{width?: number, height?: number}} size
 */
export function showAspect({ width, height }) {
  if (width && height) document.documentElement.style.setProperty("--aspect", (width / height).toFixed(4));
}

/** Offer the models; calls `chosen(id)` when the viewer chooses another one. @param {string[]} ids @param {(id: string) => void} chosen */
export function offerModels(ids, chosen) {
  const select = byId("model", HTMLSelectElement);
  select.replaceChildren(...ids.map((id) => new Option(id, id)));
  byId("model-field").hidden = ids.length < 2;
  select.onchange = () => chosen(select.value);
}

/** The page shows another viewer's stream: its prompt cannot be changed here. */
export function lookOn() {
  document.body.classList.add("watching");
  byId("prompt", HTMLTextAreaElement).readOnly = true;
}

/** Copy `text` to the clipboard; false if the browser refuses. @param {string} text */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Move the focus from the prompt to the picture, where the arrows move the camera; a pressed button keeps it. */
export function leaveWords() {
  const stage = byId("stage");
  const at = document.activeElement;
  if (at && at !== document.body && !at.matches("#prompt, #send, #begin, #stage")) return;
  stage.focus({ preventScroll: true });
  stage.scrollIntoView({ block: "nearest" });
}

/** Enter or leave full screen; false if the browser refuses. */
export async function toggleFullscreen() {
  try {
    await (document.fullscreenElement ? document.exitFullscreen() : byId("theatre").requestFullscreen());
    return true;
  } catch {
    return false;
  }
}

/** The fields of the address; "" for missing ones. */
export function readAddress() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const said = (/** @type {string} */ name) => hash.get(name) ?? "";
  const maker = { model: said("model"), by: said("by"), pafu: said("pafu") };
  return { prompt: said("prompt"), seed: said("seed"), watch: said("watch"), maker, log: said("log"), until: said("until") };
}

/** Offer the cache policies for a second stream. @param {string[]} policies */
export function offerRivals(policies) {
  const select = byId("rival-policy", HTMLSelectElement);
  select.replaceChildren(new Option("nothing", ""), ...policies.map((name) => new Option(name, name)));
  byId("rival-field").hidden = !policies.length;
}

/** Make the address lead back here: the same prompt, the same seed. @param {{prompt: string, seed: string}} _ */
export function writeAddress({ prompt, seed }) {
  history.replaceState(null, "", `#${new URLSearchParams({ prompt, seed })}`);
}
