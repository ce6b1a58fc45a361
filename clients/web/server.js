// The page's HTTP requests: readiness, models, tickets, gallery and jobs.

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
 * Whether a stream would start at once.
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
 * Wait until a stream would start at once; `told` is called with each answer before.
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
 * The server's models; [] if they are unknown, null if the server needs a key first.
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

/** The starting points of the server's gallery; [] if it has none. @returns {Promise<import("./gallery.js").StartingPoint[]>} */
export async function gallery() {
  const { body } = await ask("v1/gallery").catch(() => ({ body: {} }));
  return Array.isArray(body.data) ? body.data : [];
}

/** A picture by its path on the server. @param {string} path @returns {Promise<Blob>} */
export async function picture(path) {
  return answered(await fetch(new URL(path.replace(/^\//, ""), document.baseURI), { headers: keyHeaders() }));
}

/** The server's version; "" if unknown. @returns {Promise<string>} */
export async function version() {
  const { body } = await ask("version").catch(() => ({ body: {} }));
  return body.version ?? "";
}

/**
 * Create a video; returns the job as in /v1/videos. Throws {code, message}.
 * @param {import("./scene.js").JobOrder} order
 */
export async function makeJob(order) {
  const headers = { ...keyHeaders(), "content-type": "application/json" };
  return answered(await fetch(new URL("v1/videos", document.baseURI), { method: "POST", headers, body: JSON.stringify(order) }));
}

/** A job's state, or with part "content" its file. Throws {code, message}. @param {string} id */
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

/** A ticket for one live socket. Throws {code, message} if the server refuses. @returns {Promise<string>} */
export async function ticket() {
  const { status, body } = await ask("v1/realtime/client_secrets", "POST").catch(() => ({ status: 0, body: {} }));
  if (status === 200) return body.value;
  throw { code: body.error?.code ?? "connection_lost", message: body.error?.message ?? "" };
}

/**
 * Why no socket opens: the server's answer to the same request over HTTP. Null if the server is away.
 * @returns {Promise<import("./errors.js").Trouble | null>}
 */
export async function whyNoSocket() {
  const { status, body } = await ask("v1/realtime/client_secrets", "POST").catch(() => ({ status: 0, body: {} }));
  if (status === 0) return null;
  if (status !== 200) return body.error ? { code: body.error.code, message: body.error.message } : null;
  return { code: "no_websocket", message: "the server answers, but its WebSocket does not open" };
}

/** What prevents a reconnect: offline, server, proxy, origin, or key. */
export async function whyAway() {
  if (!navigator.onLine) return "offline";
  const trouble = await whyNoSocket();
  if (trouble === null) return "server";
  if (trouble.code === "no_websocket") return "proxy";
  return trouble.code.endsWith("_not_allowed") ? "origin" : "key";
}
