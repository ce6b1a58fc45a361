// Shows a stream: picture, surrounding colors, read-out and memory; and records it.

import { Ambient } from "./ambient.js";
import { byId } from "./dom.js";
import { MemoryView } from "./memory.js";
import { labelPicture, showAspect, showTold } from "./page.js";
import { PafuPlayer } from "./client/player-element.js";
import { Reel } from "./reel.js";
import { ReadOut } from "./stats.js";
import { Timeline } from "./timeline.js";

export class Screen {
  #video = byId("picture", HTMLVideoElement);
  element = byId("player", PafuPlayer);
  player = this.element.player;
  timeline = new Timeline();
  reel = new Reel();
  memory = new MemoryView({
    button: byId("memory-toggle", HTMLButtonElement),
    section: byId("memory"),
    video: this.#video,
    veil: byId("veil", HTMLCanvasElement),
  });
  #readout = new ReadOut(byId("readout"));
  #ambient = new Ambient(byId("ambient", HTMLCanvasElement), this.#video);
  #fps = 16;
  #askedAt = 0;

  /** A stream was requested: reset everything from the previous one. */
  clear() {
    this.#askedAt = performance.now();
    for (const part of [this.#readout, this.timeline, this.reel]) part.clear();
  }

  /** @param {import("./client/messages.js").SessionConfig} config */
  begin(config) {
    this.#fps = config.fps;
    showAspect(config);
    this.memory.begin(config);
  }

  /** @param {import("./client/messages.js").ChunkMetadata} metadata @param {ArrayBuffer} data */
  chunk({ transport_chunk_index, num_frames, stats }, data) {
    const seconds = num_frames / this.#fps;
    this.timeline.add(transport_chunk_index, seconds);
    if (data.byteLength) {
      this.reel.add(data, seconds, stats.prompt);
    }
    this.#readout.chunk(stats, this.timeline.chunkSeconds);
    this.memory.chunk(stats);
    labelPicture(stats);
    showTold(stats);
  }

  firstPicture() {
    this.#readout.firstPicture((performance.now() - this.#askedAt) / 1000);
    this.#ambient.start();
  }

  /** Called once a second during a live stream. */
  tick() {
    this.#readout.tick(this.player.framesShown, this.player.lead);
  }

  /** Index of the chunk on display. */
  get playing() {
    return this.timeline.chunkAt(this.player.position);
  }

  /** The stream has ended: the last picture stays. */
  end() {
    this.#ambient.stop();
    this.memory.end();
    this.player.halt();
  }
}
