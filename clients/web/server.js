// What the page asks over plain HTTP: is the server warm, what does its model know, and may this page come in.

import { keyHeaders } from "./key.js";

const PATIENCE_MS = 5_000;
const READY_EVERY_MS = 1_000;

/** @param {string} path @returns {Promise<{status: number, body: any}>} */
async function ask(path, method = "GET") {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const response = await fetch(new URL(path, document.baseURI), { method, headers: keyHeaders(), cache: "no-store", signal });
  const body = await response.json().catch(() => ({}));
  return { status: response.status, body };
}

/**
 * Whether a stream would begin at once.
 * @returns {Promise<{state: "ready" | "warming" | "away", reason: string}>}
 */
export async function readiness() {
  try {
    const { status, body } = await ask("readyz");
    if (status === 503) return { state: "warming", reason: body.reason ?? body.error?.message ?? "" };
    return { state: "ready", reason: "" };
  } catch {
    return { state: "away", reason: "" };
  }
}

/**
 * Wait until a stream would begin at once; `told` hears each answer before that.
 * @param {(server: {state: "warming" | "away", reason: string}) => void} told
 */
export async function untilReady(told) {
  for (;;) {
    const { state, reason } = await readiness();
    if (state === "ready") return;
    told({ state, reason });
    await new Promise((resolve) => setTimeout(resolve, READY_EVERY_MS));
  }
}

/**
 * @typedef {{id: string, digest?: string | null, examples?: string[], words?: Record<string, string[]>, camera?: boolean, cache_policy?: string,
 *   cache_policies?: string[], width?: number, height?: number,
 *   limits?: {max_prompt_chars?: number, max_streaming_buffer_seconds?: number}}} Model as /v1/models describes it
 */

/**
 * The models that the server offers, [] when it does not say, null when it wants a key first.
 * @returns {Promise<Model[] | null>}
 */
export async function models() {
  try {
    const { status, body } = await ask("v1/models");
    if (status === 401) return null;
    return Array.isArray(body.data) ? body.data : [];
  } catch {
    return [];
  }
}

/** The starting points of the server's gallery; [] when it has none. @returns {Promise<import("./gallery.js").StartingPoint[]>} */
export async function gallery() {
  const { body } = await ask("v1/gallery").catch(() => ({ body: {} }));
  return Array.isArray(body.data) ? body.data : [];
}

/** A picture that the server named by its path. @param {string} path @returns {Promise<Blob>} */
export async function picture(path) {
  return answered(await fetch(new URL(path.replace(/^\//, ""), document.baseURI), { headers: keyHeaders() }));
}

/** Version of the server; "" when it does not say. @returns {Promise<string>} */
export async function version() {
  const { body } = await ask("version").catch(() => ({ body: {} }));
  return body.version ?? "";
}

/**
 * Order a video; the job, as /v1/videos tells it. Throws {code, message}.
 * @param {import("./scene.js").JobOrder} order
 */
export async function makeJob(order) {
  const headers = { ...keyHeaders(), "content-type": "application/json" };
  return answered(await fetch(new URL("v1/videos", document.baseURI), { method: "POST", headers, body: JSON.stringify(order) }));
}

/** A job as it stands, or with part "content" its file. Throws {code, message}. @param {string} id */
export async function videoOf(id, part = "") {
  return answered(await fetch(new URL(`v1/videos/${id}${part && `/${part}`}`, document.baseURI), { headers: keyHeaders(), cache: "no-store" }));
}

/** @param {Response} response @returns {Promise<any>} */
async function answered(response) {
  const json = response.headers.get("content-type")?.includes("json");
  const body = json ? await response.json() : await response.blob();
  if (!response.ok) throw { code: body.error?.code ?? "internal_error", message: body.error?.message ?? "" };
  return body;
}

/** A ticket for one live socket. Throws {code, message} when the server gives none. @returns {Promise<string>} */
export async function ticket() {
  const { status, body } = await ask("v1/realtime/client_secrets", "POST").catch(() => ({ status: 0, body: {} }));
  if (status === 200) return body.value;
  throw { code: body.error?.code ?? "connection_lost", message: body.error?.message ?? "" };
}

/**
 * Why no socket opens: what the server answers to the same page over HTTP. Null when it is away.
 * @returns {Promise<import("./errors.js").Trouble | null>}
 */
export async function whyNoSocket() {
  const { status, body } = await ask("v1/realtime/client_secrets", "POST").catch(() => ({ status: 0, body: {} }));
  if (status === 0) return null;
  if (status !== 200) return body.error ? { code: body.error.code, message: body.error.message } : null;
  return { code: "no_websocket", message: "the server answers, but its WebSocket does not open" };
}

/** What keeps a live connection from being made again: offline, server, proxy, origin, or key. */
export async function whyAway() {
  if (!navigator.onLine) return "offline";
  const trouble = await whyNoSocket();
  if (trouble === null) return "server";
  if (trouble.code === "no_websocket") return "proxy";
  return trouble.code.endsWith("_not_allowed") ? "origin" : "key";
}
