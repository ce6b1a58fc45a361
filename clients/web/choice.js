// The options of a stream besides its prompt: model, seed, buffer, first picture.

import { byId } from "./dom.js";
import { offerModels, offerRivals, showAspect } from "./page.js";
import { StartPicture } from "./start.js";
import { cacheWords } from "./stats.js";

const BUFFER_SECONDS = 1.25; // how far the server may run ahead of the playhead

/** The page's options; `offered(model)` is called with the chosen model. */
export class Choice {
  #offered;
  #seed = byId("seed", HTMLInputElement);
  #select = byId("model", HTMLSelectElement);
  /** @type {import("./server.js").Model[]} */
  #models = [];
  #bufferSeconds = BUFFER_SECONDS;
  #picture;

  /**
   * @param {(model: import("./server.js").Model) => void} offered
   * @param {ConstructorParameters<typeof StartPicture>[0]} told of the picture to begin with
   */
  constructor(offered, told) {
    this.#offered = offered;
    this.#picture = new StartPicture(told);
    this.#seed.addEventListener("input", () => (this.#seed.value = this.#seed.value.replace(/\D/g, "")));
  }

  /** Name of the chosen model; "" before the models are known. */
  get model() {
    return this.#select.value;
  }

  /** @param {string} seed "" for a new one each time */
  set seed(seed) {
    this.#seed.value = seed;
  }

  /** What generates the pictures. @param {string} pafu version of the server @returns {import("./scene.js").Maker} */
  maker(pafu) {
    const { digest } = this.#models.find(({ id }) => id === this.model) ?? {};
    return { model: this.model, by: (digest ?? "").slice(0, 12), pafu };
  }

  /** Show the options that the running stream got. @param {import("./client/messages.js").SessionConfig} config */
  show(config) {
    this.#seed.placeholder = String(config.seed);
    byId("cache-words").textContent = cacheWords(config);
  }

  throwDice() {
    this.seed = String(randomSeed());
  }

  /** Offer these models, the first one chosen. @param {import("./server.js").Model[]} models */
  offer(models) {
    this.#models = models;
    offerModels(models.map(({ id }) => id), (id) => this.#choose(models.find((model) => model.id === id) ?? models[0]));
    this.#choose(models[0]);
  }

  /** @param {import("./server.js").Model} model */
  #choose(model) {
    const { limits = {}, cache_policy, cache_policies = [] } = model;
    this.#bufferSeconds = Math.min(BUFFER_SECONDS, limits.max_streaming_buffer_seconds ?? BUFFER_SECONDS);
    offerRivals(cache_policies.filter((name) => name !== cache_policy));
    showAspect(model);
    this.#offered(model);
  }

  /** session.start for this prompt, without its type. @param {string} prompt */
  request(prompt) {
    const seed = Number.parseInt(this.#seed.value, 10);
    const request = {
      prompt,
      format: "m4s",
      seed: seed >= 0 ? seed : randomSeed(),
      streaming_buffer_seconds: this.#bufferSeconds,
      memory: true,
      ...(this.#picture.url && { image: this.#picture.url }),
    };
    return this.model ? { ...request, model: this.model } : request;
  }
}

function randomSeed() {
  return Math.floor(Math.random() * 2 ** 31);
}
