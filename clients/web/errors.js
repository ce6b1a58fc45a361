// Error codes in plain words: what happened, and what to do.

const AGAIN = "Press play to begin again.";
/** @type {[title: string, hint: string]} */
const BAD_PICTURE = ["This picture does not work", "Drop another one: JPEG, PNG or WebP, at least 16 pixels on each side."];
const SOON = "Press play in a few seconds.";
/** @type {Record<string, [title: string, hint: string]>} */
const TEXTS = {
  connection_lost: ["The connection was lost", `The server stopped or the network dropped. ${AGAIN}`],
  shutting_down: ["The server is shutting down", "Wait until it is back, then press play."],
  session_rejected: ["There is no free place", "Others are watching. Try again in a minute."],
  not_ready: ["Still warming up", `The model is drawing its first pictures. ${SOON}`],
  worker_failed: ["The model stopped in the middle of a picture", `It is being started again. ${SOON}`],
  generation_failed: ["The pictures went wrong", `This stream had to end; nothing else is affected. ${AGAIN}`],
  cache_full: ["This stream's memory is full", `It was asked to forget nothing, and ends here. ${AGAIN}`],
  internal_error: ["The server made a mistake", `This stream had to end. ${AGAIN}`],
  viewer_stalled: ["The stream waited too long", `This page did not play for a while. ${AGAIN}`],
  unknown_session: ["The stream is over", `The server did not keep it while the connection was away. ${AGAIN}`],
  not_watchable: ["There is nothing to look on at", "The picture behind this link is over. Paint your own."],
  expired: ["The stream is over", `Nobody watched it for too long. ${AGAIN}`],
  chunk_gone: ["The stream cannot go on", `Pictures were lost with the connection. ${AGAIN}`],
  session_taken: ["The stream goes on elsewhere", "Another connection has taken it over."],
  unknown_model: ["This model is not here", "Choose another one under “Model and memory”."],
  too_many_interactions: ["Too many changes at once", "Let the picture catch up, then go on."],
  interaction_failed: ["That change was not taken", "The stream goes on as it was. Change the words and try again."],
  origin_not_allowed: ["This page may not use the server", "Open the page from the server's own address."],
  host_not_allowed: ["This page may not use the server", "Open the page under the name that the server expects."],
  no_websocket: ["The live connection does not open", "A proxy between this page and the server does not pass WebSockets. Whoever runs the server finds how to in docs/operations.md."],
  missing_key: ["This server wants a key", "Write your API key above and press Enter."],
  invalid_key: ["The key is not known here", "Write another one above, or ask whoever runs the server."],
  rate_limited: ["Too many requests for this key", "Wait a little, then press play."],
  session_limit: ["All places of this key are taken", "End another stream, or wait until one is over."],
  ticket_limit: ["Too many streams at once", "Wait a minute, then press play."],
  unsupported_video: ["This browser cannot play the stream", "It lacks Media Source Extensions with H.264. Use a recent Chrome, Edge, Firefox or Safari; pafu watch plays it too."],
  decoder: ["The browser stopped decoding", `${AGAIN} If it comes back, reload the page.`],
  no_second_place: ["There is no place for a second stream", "Comparing takes two places. The first one goes on; try again when somebody has left."],
  broken_link: ["This link is damaged", "Its words and seed are here; what was changed meanwhile is not."],
  other_model: ["This link was made with another model", "The same words may look different here."],
  bad_picture: BAD_PICTURE,
  other_weights: ["This link was made with other weights of the model", "The same words may look different here."],
  other_version: ["This link was made with another version of Pafu", "The same words may look different here."],
  no_webp: ["This browser writes no WebP pictures", "Save the video instead, or use a recent Chrome, Edge or Firefox."],
  empty_prompt: ["Nothing to paint yet", "Write what should be seen, or choose one of the examples."],
};
const BAD_PROMPT = ["The prompt does not work", "Change the words and press Enter."];
const UNKNOWN = ["Something went wrong", AGAIN];

/** @typedef {{code: string, message?: string, param?: string | null}} Trouble what went wrong, in the server's terms */

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
