// @pafu/client: watch, steer and save live streams of a Pafu server, and create videos. `<pafu-player>` is in ./player-element.js.

export { PafuError } from "./errors.js";
export { Server } from "./http.js";
export { Stream, connect, watch } from "./live.js";
export { LiveSession } from "./protocol.js";
