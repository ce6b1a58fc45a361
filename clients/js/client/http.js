// HTTP requests: models, tickets for live sockets, and videos as jobs.

import { PafuError } from "./errors.js";
import { baseOf } from "./protocol.js";

const POLL_MS = 1_000; // if the server does not say when to poll again
const FIRST_DELAY_MS = 250; // before the second attempt to reach a server; doubles with each
const LONGEST_DELAY_MS = 5_000;
const PATIENCE_MS = 60_000;

/**
 * @typedef {object} Access
 * @property {string} [key] the API key, for servers with keys; a page should not store one
 * @property {number} [patience] milliseconds to retry while the server does not answer (60,000)
 *
 * @typedef {object} Video a job, as in /v1/videos
 * @property {string} id
 * @property {"queued" | "in_progress" | "completed" | "failed"} status
 * @property {number} progress percent
 * @property {string} prompt
 * @property {string} seconds length of the whole video
 * @property {number} seed
 * @property {{code: string, message: string} | null} error
 *
 * @typedef {object} Order the server chooses what is not given
 * @property {string} prompt
 * @property {number} [seconds]
 * @property {number} [num_frames]
 * @property {number} [seed]
 * @property {string} [model]
 * @property {string} [input_reference] the first picture, as a data URL
 * @property {object} [extra_params]
 * @property {object[]} [interactions] changes as in session.start
 *
 * @typedef {"video" | "thumbnail" | "spritesheet" | "loop"} Variant
 */

/** One server. Every method rejects with a PafuError. */
export class Server {
  #base;
  #key;
  #patience;

  /** @param {string} [url] default: the page's own @param {Access} [access] */
  constructor(url, { key = "", patience = PATIENCE_MS } = {}) {
    this.#base = baseOf(url);
    this.#key = key;
    this.#patience = patience;
  }

  /** The server's models and their vocabularies. @returns {Promise<Record<string, any>[]>} */
  async models() {
    return (await this.#json("v1/models")).data;
  }

  /** Whether a stream would start at once. */
  async ready() {
    return (await this.#reach("readyz", {})).ok;
  }

  /** A ticket for one live socket; null without a key. */
  async ticket() {
    return this.#key ? /** @type {string} */ ((await this.#json("v1/realtime/client_secrets", { method: "POST" })).value) : null;
  }

  /** Create a video. @param {Order} order @returns {Promise<Video>} */
  create(order) {
    return this.#order("v1/videos", order);
  }

  /** Extend a completed video: creates a new one, whose length is the total. @param {string} id @param {{prompt: string, seconds?: number}} more */
  extend(id, more) {
    return this.#order("v1/videos/extensions", { video: { id }, ...more });
  }

  /** Create a video with the same options, including the seed, and another prompt. @param {string} id @param {string} prompt */
  remix(id, prompt) {
    return this.#order(`v1/videos/${id}/remix`, { prompt });
  }

  /** A video's current state. @param {string} id @returns {Promise<Video>} */
  video(id) {
    return this.#json(`v1/videos/${id}`);
  }

  /** Newest first. @param {{limit?: number, after?: string}} [page] @returns {Promise<Video[]>} */
  async videos({ limit = 20, after } = {}) {
    const query = new URLSearchParams({ limit: String(limit), ...(after ? { after } : {}) });
    return (await this.#json(`v1/videos?${query}`)).data;
  }

  /** Delete a video; a running job stops. @param {string} id */
  async remove(id) {
    await this.#json(`v1/videos/${id}`, { method: "DELETE" });
  }

  /**
   * Wait for a video to complete; `progress` is called for every change of its state. Rejects with the error of a failed job.
   * @param {string} id
   * @param {{progress?: (video: Video) => void, signal?: AbortSignal}} [options]
   * @returns {Promise<Video>}
   */
  async wait(id, { progress, signal } = {}) {
    for (let told = ""; ; ) {
      signal?.throwIfAborted();
      const response = await this.#reach(`v1/videos/${id}`, {});
      const video = /** @type {Video} */ (await answered(response));
      const state = `${video.status} ${video.progress}`;
      if (state !== told) progress?.(video);
      told = state;
      if (video.error) throw new PafuError(video.error);
      if (video.status === "completed") return video;
      await after(Number(response.headers.get("openai-poll-after-ms") ?? POLL_MS));
    }
  }

  /** The bytes of a completed video. @param {string} id @param {Variant} [variant] @returns {Promise<Uint8Array>} */
  async content(id, variant = "video") {
    const response = await this.#reach(`v1/videos/${id}/content?variant=${variant}`, {});
    if (!response.ok) throw await refusal(response);
    return new Uint8Array(await response.arrayBuffer());
  }

  // The key makes a repeated order, sent because the answer was lost, create only one video.
  /** @param {string} path @param {object} body @returns {Promise<Video>} */
  #order(path, body) {
    const headers = { "content-type": "application/json", "idempotency-key": `pafu-js-${crypto.randomUUID()}` };
    return this.#json(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** @param {string} path @param {RequestInit} [request] @returns {Promise<any>} */
  async #json(path, request = {}) {
    return answered(await this.#reach(path, request));
  }

  /** Send a request, and repeat it for a while if there is no answer. @param {string} path @param {RequestInit} request */
  async #reach(path, request) {
    const began = performance.now();
    const headers = { ...request.headers, ...(this.#key ? { authorization: `Bearer ${this.#key}` } : {}) };
    for (let delay = FIRST_DELAY_MS; ; delay = Math.min(2 * delay, LONGEST_DELAY_MS)) {
      try {
        return await fetch(new URL(path, this.#base), { ...request, headers, cache: "no-store" });
      } catch (error) {
        if (performance.now() - began > this.#patience || request.method === "DELETE") {
          throw new PafuError({ code: "connect_failed", message: `no answer from ${this.#base}: ${error}`, retryable: true });
        }
        await after(delay);
      }
    }
  }
}

/** @param {Response} response */
async function answered(response) {
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** @param {Response} response */
async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const { code = `http_${response.status}`, message = response.statusText, param } = body.error ?? {};
  return new PafuError({ code, message, param, retryable: [429, 502, 503].includes(response.status) });
}

/** @param {number} milliseconds */
const after = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
