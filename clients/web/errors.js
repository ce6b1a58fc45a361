// Error codes as texts: what happened, and what to do.

const AGAIN = "Press Play to start again.";
/** @type {[title: string, hint: string]} */
const BAD_PICTURE = ["This picture cannot be used", "Use another one: JPEG, PNG or WebP, at least 16 pixels on each side."];
const SOON = "Press Play in a few seconds.";
/** @type {Record<string, [title: string, hint: string]>} */
const TEXTS = {
  connection_lost: ["The connection was lost", `The server stopped or the network dropped. ${AGAIN}`],
  shutting_down: ["The server is shutting down", "Wait until it is back, then press Play."],
  session_rejected: ["All places are taken", "Other viewers are using the server. Try again in a minute."],
  not_ready: ["Still warming up", `The model is drawing its first pictures. ${SOON}`],
  worker_failed: ["The model stopped", `It is restarting. ${SOON}`],
  generation_failed: ["The model produced invalid pictures", `This stream had to end; other streams are not affected. ${AGAIN}`],
  cache_full: ["This stream's memory is full", `Its cache policy never forgets, so it ends here. ${AGAIN}`],
  internal_error: ["The server had an internal error", `This stream had to end. ${AGAIN}`],
  viewer_stalled: ["The stream was stopped", `This page did not play it for a while. ${AGAIN}`],
  unknown_session: ["The stream is over", `The server did not keep it while the connection was away. ${AGAIN}`],
  not_watchable: ["There is nothing to watch", "The stream of this link has ended. Start your own."],
  expired: ["The stream is over", `It had no viewer for too long. ${AGAIN}`],
  chunk_gone: ["The stream cannot continue", `Pictures were lost with the connection. ${AGAIN}`],
  session_taken: ["The stream continues elsewhere", "Another connection took it over."],
  unknown_model: ["The server does not have this model", "Choose another one under “Model and memory”."],
  too_many_interactions: ["Too many changes at once", "Wait until the picture catches up."],
  interaction_failed: ["The server refused this change", "The stream continues unchanged. Change the prompt and try again."],
  origin_not_allowed: ["This page may not use the server", "Open the page from the server's own address."],
  host_not_allowed: ["This page may not use the server", "Open the page under the name that the server expects."],
  no_websocket: ["The live connection cannot be opened", "A proxy between this page and the server blocks WebSockets. The server's operator finds the fix in docs/operations.md."],
  missing_key: ["This server needs a key", "Enter your API key above."],
  invalid_key: ["The server does not know this key", "Enter another one above, or ask the server's operator."],
  rate_limited: ["Too many requests for this key", "Wait a little, then press Play."],
  session_limit: ["This key has too many streams", "Stop another stream, or wait until one ends."],
  ticket_limit: ["Too many streams at once", "Wait a minute, then press Play."],
  unsupported_video: ["This browser cannot play the stream", "It lacks Media Source Extensions with H.264 (Firefox on Linux needs FFmpeg's libavcodec for it). Use a recent Chrome, Edge, Firefox or Safari, or save the stream with the command pafu watch."],
  decoder: ["The browser stopped decoding", `${AGAIN} If it happens again, reload the page.`],
  no_second_place: ["There is no place for a second stream", "A comparison needs two places. The first stream continues; try again when another viewer has left."],
  broken_link: ["This link is damaged", "What could be read of its prompt and seed is here; its later changes are lost."],
  other_model: ["This link was made with another model", "The same words may look different here."],
  bad_picture: BAD_PICTURE,
  other_weights: ["This link was made with other weights of the model", "The same words may look different here."],
  other_version: ["This link was made with another version of Pafu", "The same words may look different here."],
  no_webp: ["This browser cannot write WebP pictures", "Save the video instead, or use a recent Chrome, Edge or Firefox."],
  empty_prompt: ["The prompt is empty", "Describe what you want to see, or choose an example."],
};
const BAD_PROMPT = ["This prompt cannot be used", "Change it and press Enter."];
const UNKNOWN = ["Something went wrong", AGAIN];

/** @typedef {{code: string, message?: string, param?: string | null}} Trouble an error in the server's terms */

/**
 * {title, hint, detail} for an error; `detail` is the server's own sentence.
 * @param {Trouble} trouble
 */
export function explain({ code, message, param }) {
  const [title, hint] = byParam(param) ?? TEXTS[code] ?? UNKNOWN;
  return { title, hint, detail: message ?? "" };
}

/** @param {string | null} [param] */
function byParam(param) {
  if (param?.endsWith("prompt")) return BAD_PROMPT;
  return ["image", "input_reference"].includes(param ?? "") ? BAD_PICTURE : undefined;
}
