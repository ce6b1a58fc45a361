// Pure edits of the prompt text.

/** @type {Light[]} */
export const LIGHTS = ["morning", "day", "sunset", "night"];

/** @typedef {"morning" | "day" | "sunset" | "night"} Light */

/** @type {Record<Light, string>} */
const PHRASES = { morning: "in the morning", day: "by day", sunset: "at sunset", night: "at night" };
/** @type {Record<Light, string[]>} */
const NAMES = {
  morning: ["morning", "dawn", "sunrise"],
  day: ["sunny day", "day", "daytime", "daylight", "noon", "midday", "afternoon", "sunny"],
  sunset: ["sunset", "dusk", "evening", "twilight"],
  night: ["starry night", "moonlit night", "dark night", "night", "nighttime", "midnight", "moonlit", "starry"],
};
/** @type {Map<string, Light>} */
const LIGHT_OF = new Map(LIGHTS.flatMap((light) => NAMES[light].map((name) => /** @type {const} */ ([name, light]))));
const ALL_NAMES = [...LIGHT_OF.keys()].sort((a, b) => b.length - a.length).join("|");
const LEADS = "(?:(?:early |late )?in the (?:early |late )?|at |by |during the |under the )";
const LIGHT_PHRASE = new RegExp(`\\b(${LEADS})?(${ALL_NAMES})\\b`, "gi");

// A word before a noun ("a sunny meadow") must be replaced by an adjective.
const ADJECTIVES = new Set(["sunny", "moonlit", "starry"]);
/** @type {Record<Light, string>} */
const AS_ADJECTIVE = { morning: "morning", day: "sunny", sunset: "sunset", night: "moonlit" };

/** The last light in the prompt, or null. @param {string} prompt */
export function lightIn(prompt) {
  const found = [...prompt.matchAll(LIGHT_PHRASE)].at(-1);
  return (found && LIGHT_OF.get(found[2].toLowerCase())) ?? null;
}

/**
 * The prompt with its light changed to `light`, or with `light` appended if it has none.
 * @param {string} prompt
 * @param {Light} light
 */
export function withLight(prompt, light) {
  if (!lightIn(prompt)) return join(prompt, PHRASES[light]);
  return prompt.replace(LIGHT_PHRASE, (whole, lead, name, at) => {
    if (ADJECTIVES.has(name.toLowerCase())) return AS_ADJECTIVE[light];
    if (lead) return matchCase(whole, PHRASES[light]);
    return matchCase(name, isNounAfterArticle(prompt, at) || name.includes(" ") || at === 0 ? light : PHRASES[light]);
  });
}

/**
 * `prompt` with `phrase` inserted at the caret, with proper commas and spaces.
 * @param {string} prompt
 * @param {string} phrase
 * @param {number} caret
 */
export function insertWord(prompt, phrase, caret) {
  const before = prompt.slice(0, caret).trimEnd();
  const after = prompt.slice(caret).trimStart();
  const text = before ? `${before} ${phrase}` : phrase;
  const tight = after === "" || /^[,.;:]/.test(after);
  return { text: tight ? text + after : `${text} ${after}`, caret: text.length + (tight ? 0 : 1) };
}

/** `prompt` with `phrase` appended as a separate part. @param {string} prompt @param {string} phrase */
export function join(prompt, phrase, mark = ",") {
  const head = prompt.trim().replace(/[,;.\s]+$/, "");
  return head ? `${head}${mark} ${phrase}` : phrase;
}

/** @param {string} prompt @param {number} at */
function isNounAfterArticle(prompt, at) {
  return /\b(?:a|an|the|snowy|summer|winter|quiet|calm)\s+$/i.test(prompt.slice(0, at));
}

/** @param {string} model @param {string} text */
function matchCase(model, text) {
  return /^[A-Z]/.test(model) ? text[0].toUpperCase() + text.slice(1) : text;
}
