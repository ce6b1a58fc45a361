// The page's state: `reduce` computes the next state from a state and an event, `view` computes what to show.
// No DOM, no sockets, no clocks.

export const Phase = Object.freeze({ WAKING: "waking", READY: "ready", OPENING: "opening", LIVE: "live", STOPPING: "stopping" });

/** @type {Record<PhaseName, string>} */
const STATUS = {
  waking: "Warming up",
  ready: "Ready",
  opening: "Painting the first picture",
  live: "Live",
  stopping: "Stopping",
};
const WARMING = "Warming up: the model is drawing its first pictures";
const STARVED = "The server is slower than playback: the next pictures are being painted.";
const BLOCKED = "The browser plays nothing by itself now: tap the picture to play.";
const MOST_WARNINGS = 3;
const BY_ITSELF = "the stream continues by itself.";
const BROKEN = `The connection broke; ${BY_ITSELF}`;
/** @type {Record<string, string>} */
const CAUSES = {
  offline: "This device is offline",
  server: "The server does not answer",
  proxy: "The server answers, but a proxy blocks the live connection",
  origin: "The server no longer accepts this page",
  key: "The server no longer accepts this key",
};

/** @typedef {"waking" | "ready" | "opening" | "live" | "stopping"} PhaseName */

/**
 * @typedef {object} State
 * @property {PhaseName} phase
 * @property {string} watching session of another viewer, "" for the page's own
 * @property {{state: "ready" | "warming" | "away", reason: string}} server the last answer of /readyz
 * @property {boolean} startWhenWarm
 * @property {string} sessionId of the running stream
 * @property {string} shown the running stream's prompt
 * @property {Record<string, string>} pending event id -> prompt that is not visible yet
 * @property {string[]} warnings sentences about parts of the prompt that will not be drawn
 * @property {number} chunks of the running stream
 * @property {boolean} paused by the viewer
 * @property {boolean} blocked by the browser, until a user gesture
 * @property {boolean} starved nothing left to play
 * @property {number} pace playback rate, in steps of 0.1
 * @property {{title: string, text: string} | null} hitch why there are no new pictures now
 * @property {boolean} hasPicture the player shows a picture
 * @property {string} note
 */

const stream = { chunks: 0, paused: false, blocked: false, starved: false, pace: 1, hitch: null, pending: {} };

/** The state of a newly opened page. @returns {State} */
export function opened(watching = "") {
  return {
    phase: Phase.WAKING,
    watching,
    server: { state: "warming", reason: "" },
    startWhenWarm: Boolean(watching),
    sessionId: "",
    warnings: [],
    ...stream,
    shown: "",
    hasPicture: false,
    note: "",
  };
}

/** @param {string} title @param {string} text */
const hitch = (title, text) => ({ hitch: { title, text }, note: text });
const rested = () => ({ ...stream, phase: Phase.READY, note: "Press Enter to begin." });
/** Whether a stream is opening or live. @param {State} state */
export const running = ({ phase }) => phase === Phase.OPENING || phase === Phase.LIVE;

/** @type {Record<string, (state: State, event: any) => Partial<State>>} what each event changes */
const HANDLERS = {
  // the server
  readiness: (state, { server }) => (state.phase === Phase.WAKING ? { server } : {}),
  warm: () => ({ phase: Phase.READY, note: "Press Enter to begin." }),
  wish: () => ({ startWhenWarm: true, note: "The stream starts as soon as the model is ready." }),
  // one stream
  start: (state, { prompt }) => ({ ...stream, phase: Phase.OPENING, shown: prompt, warnings: [], startWhenWarm: false, note: "" }),
  accepted: (state, { sessionId, warnings }) => ({ sessionId, warnings, hasPicture: false }),
  chunk: (state) => ({ chunks: state.chunks + 1, ...(state.hitch ? recovered(state) : {}) }),
  firstPicture: (state) =>
    state.phase === Phase.OPENING ? { phase: Phase.LIVE, hasPicture: true, note: leftOut(state.warnings) || hint({ ...state, paused: false }) } : {},
  stop: () => ({ ...stream, phase: Phase.STOPPING, note: "" }),
  rest: rested,
  fail: (state) => (state.phase === Phase.STOPPING ? rested() : { ...rested(), phase: Phase.WAKING, note: "" }),
  // interruptions
  inLine: (state, { position, seconds }) => hitch("Waiting for a place", placeInLine(position, seconds)),
  interrupted: () => hitch("A moment, please", `The worker was lost and is restarting; ${BY_ITSELF}`),
  leaving: () => hitch("Reconnecting", `The server is restarting; ${BY_ITSELF}`),
  reconnecting: (state) => (state.hitch?.title === "Reconnecting" ? {} : hitch("Reconnecting", BROKEN)),
  // Keep the server's own reason for leaving.
  cause: (state, { code }) => (state.hitch?.text === BROKEN ? hitch("Reconnecting", `${CAUSES[code]}; afterwards ${BY_ITSELF}`) : {}),
  // A paused stream has no new picture that would clear the message.
  resumed: (state) =>
    state.paused ? recovered(state) : hitch("Back again", "Reconnected; the next pictures are on their way."),
  starved: (state) => ({ starved: state.phase === Phase.LIVE && !state.paused }),
  playing: () => ({ blocked: false, starved: false }),
  pace: (state, { pace }) => ({ pace: Math.round(10 * pace) / 10 }),
  blocked: () => ({ blocked: true }),
  paused: (state, { paused }) => {
    const next = { ...state, paused, starved: false };
    return { paused, starved: false, note: state.hitch ? state.note : hint(next) };
  },
  // words
  told: (state, { id, prompt }) => ({
    shown: prompt,
    pending: { ...state.pending, [id]: prompt },
    note: state.paused ? "It will show when you resume." : "Sent.",
  }),
  heard: (state, { id, warnings }) => {
    if (!(id in state.pending)) return {};
    const soon = state.paused ? "Received. It will show when you resume." : "Received. It will show with the next pictures.";
    return { warnings, note: leftOut(warnings) || soon };
  },
  applied: (state, { id }) => {
    if (!(id in state.pending)) return {};
    const pending = { ...state.pending };
    delete pending[id];
    if (Object.keys(pending).length) return { pending };
    return { pending, note: leftOut(state.warnings) || "The picture shows the new prompt." };
  },
  recalled: (state, { prompt }) => ({ shown: prompt }),
  refused: () => ({ pending: {}, note: "" }),
  note: (state, { text }) => ({ note: text }),
};

/** @param {State} state */
function recovered(state) {
  return { hitch: null, note: state.phase === Phase.LIVE ? hint(state) : "" };
}

/**
 * The state after `event`; the event must be known.
 * @param {State} state
 * @param {{type: string, [more: string]: any}} event
 * @returns {State}
 */
export function reduce(state, event) {
  return { ...state, ...HANDLERS[event.type](state, event) };
}

/**
 * What the page shows in this state; `prompt` is the text in the prompt box.
 * @param {State} state
 * @param {string} prompt
 */
export function view(state, prompt) {
  const { phase, paused } = state;
  const live = phase === Phase.LIVE;
  return {
    phase,
    status: status(state),
    note: state.note,
    wait: waitText(state),
    slow: live && !paused && !state.hitch && state.pace < 1 ? `In slow motion: ${Math.round(100 * state.pace)} %` : "", // chunks arrive more slowly than they play
    paused,
    kept: state.hasPicture,
    begin: paused || phase === Phase.READY,
    canStop: running(state) || phase === Phase.STOPPING,
    canPause: live,
    canSteer: live && !paused && !state.watching,
    trouble: Boolean(state.hitch) || state.starved || state.blocked, // the picture stands still, and the page says why
    send: live ? "Change" : "Play",
    canSend: phase === Phase.READY || phase === Phase.WAKING || (live && prompt !== state.shown),
  };
}

/** @param {State} state */
function status(state) {
  if (state.hitch) return state.hitch.title;
  if (state.paused) return "Paused";
  if (state.blocked) return "Tap the picture to play";
  if (state.starved) return "Waiting for pictures";
  if (state.phase === Phase.WAKING) return state.server.state === "away" ? "Looking for the server" : STATUS.waking;
  return state.phase === Phase.LIVE && state.watching ? "Watching" : STATUS[state.phase];
}

/** The text over a picture that stands still, or null. @param {State} state */
function waitText(state) {
  if (state.phase === Phase.LIVE && state.blocked) return BLOCKED;
  if (state.phase === Phase.LIVE) return state.starved ? (state.hitch?.text ?? STARVED) : null;
  if (state.phase !== Phase.WAKING && state.phase !== Phase.OPENING) return null;
  if (state.hitch) return state.hitch.text;
  if (state.phase === Phase.OPENING) return STATUS.opening;
  return state.server.state === "away" ? "No answer yet; trying again" : sentence(state.server.reason) || WARMING;
}

/** @param {State} state */
function hint({ watching, paused }) {
  if (watching) return "You are watching another viewer's stream.";
  return paused ? "Paused: nothing is being painted. Press Space to resume." : "Change the prompt and press Enter.";
}

/** @param {number} position @param {number} [seconds] */
function placeInLine(position, seconds) {
  const place = position === 1 ? "You are next" : `You are number ${position} in line`;
  const soon = seconds === undefined ? "" : `, probably for about ${Math.max(1, Math.round(seconds))} s`;
  return `All places are taken. ${place}${soon}.`;
}

/**
 * The server's warnings about parts of the prompt that will not be drawn; "" without warnings.
 * @param {string[]} warnings
 */
function leftOut(warnings) {
  const more = warnings.length > MOST_WARNINGS ? " And more." : "";
  return warnings.slice(0, MOST_WARNINGS).map((each) => sentence(each).replace(/(?<![?.!])$/, ".")).join(" ") + more;
}

/** @param {string} text */
export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}
