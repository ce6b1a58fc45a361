// Draws the memory view: tiles over a picture, and the filmstrip of moments. moments.js decides what to draw.

import { brush } from "./dom.js";

/**
 * @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Brush
 * @typedef {{rows: number, columns: number}} Grid token grid of a picture
 * @typedef {{x: number, y: number, width: number, height: number}} Area in pixels of the canvas
 * @typedef {import("./moments.js").Moment} Moment
 * @typedef {Area & import("./moments.js").Shown} Placed a moment with its place on the filmstrip
 */

export const LABEL = 18; // pixels under each picture, for its time
export const GAP = 8; // pixels between pictures
const NARROWEST = 76; // pixels: minimum width of a picture
const FEW = 6; // moments to show at least, made smaller if necessary
const MOST = 12;
const ROOM_FOR_BOTH = 110; // pixels: narrower pictures show only their time
const GOLD = "255 214 130";
const ROSE = "255 98 122";
const INK = "12 14 24";

/** @param {string} colour @param {number} alpha */
const ink = (colour, alpha) => `rgb(${colour} / ${(100 * Math.max(0, Math.min(1, alpha))).toFixed(1)}%)`;

/** Canvas pixels per page pixel. */
export function density() {
  return Math.min(2, devicePixelRatio || 1);
}

/**
 * How many moments fit side by side into `room` pixels, and how wide each is: up to `widest`, but narrower if that would
 * leave fewer than FEW.
 * @param {number} room
 * @param {number} widest
 */
export function tiles(room, widest) {
  const count = (/** @type {number} */ wide) => Math.max(1, Math.floor((room + GAP) / (wide + GAP)));
  const across = Math.min(MOST, Math.max(count(widest), Math.min(FEW, count(NARROWEST))));
  return { across, wide: Math.max(1, Math.min(widest, (room - GAP * (across - 1)) / across)) };
}

/**
 * Clear the canvas and give it the resolution for `width` x `height` page pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fit(canvas, width, height) {
  Object.assign(canvas, { width: Math.round(width * density()), height: Math.round(height * density()) });
}

/**
 * Calls `draw(cell, x, y, width, height)` for every tile of the area, in whole pixels, so that there are no seams.
 * @param {Area} area
 * @param {Grid} grid
 * @param {(cell: number, ...place: [x: number, y: number, width: number, height: number]) => void} draw
 */
function eachTile({ x, y, width, height }, { rows, columns }, draw) {
  const across = (/** @type {number} */ column) => Math.round(x + (width * column) / columns);
  const down = (/** @type {number} */ row) => Math.round(y + (height * row) / rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [left, top] = [across(column), down(row)];
      draw(row * columns + column, left, top, across(column + 1) - left, down(row + 1) - top);
    }
  }
}

/**
 * A golden edge; `strength` (0 to 1) is its brightness.
 * @param {Brush} context
 * @param {number} strength
 * @param {[x: number, y: number, width: number, height: number]} place
 */
function edge(context, strength, ...[x, y, width, height]) {
  if (strength < 0.05) return;
  const line = Math.max(1, Math.min(2.5 * density(), Math.min(width, height) / 14));
  context.fillStyle = ink(GOLD, 0.12 * strength);
  context.fillRect(x, y, width, height);
  context.strokeStyle = ink(GOLD, 0.9 * strength);
  context.lineWidth = line;
  context.beginPath();
  context.roundRect(x + line, y + line, width - 2 * line, height - 2 * line, line);
  context.stroke();
}

/** @param {Moment} moment @param {number} cell */
const strength = ({ kept, salience }, cell) => (salience ? (kept[cell] / 255) * (salience[cell] / 255) ** 2 : 0);

/**
 * Draw over the playing picture: golden edges where `moment` is salient, shade where it is already dropped.
 * @param {HTMLCanvasElement} canvas
 * @param {Moment | undefined} moment
 * @param {Grid} grid
 */
export function drawVeil(canvas, moment, grid) {
  fit(canvas, canvas.clientWidth, canvas.clientHeight);
  if (!moment) return;
  const context = brush(canvas);
  eachTile({ x: 0, y: 0, width: canvas.width, height: canvas.height }, grid, (cell, ...place) => {
    context.fillStyle = ink(INK, 0.35 * (1 - moment.kept[cell] / 255));
    context.fillRect(...place);
    edge(context, strength(moment, cell), ...place);
  });
}

/**
 * Draw the moment gray and dark, then its kept tiles in color.
 * @param {Brush} context
 * @param {OffscreenCanvas | null} thumb null: generated, but not shown yet
 * @param {Placed} place
 * @param {Grid} grid
 */
export function drawMoment(context, thumb, place, grid) {
  const { x, y, width, height } = place;
  context.save();
  context.beginPath();
  context.roundRect(x, y, width, height, height * 0.08);
  context.fillStyle = "rgb(128 128 128 / 16%)";
  context.fill();
  context.clip();
  if (thumb) {
    context.drawImage(thumb, x, y, width, height);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(x, y, width, height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = ink(INK, 0.68);
    context.fillRect(x, y, width, height);
    drawKept(context, thumb, place, grid);
  }
  context.restore();
}

/** @param {Brush} context @param {OffscreenCanvas} thumb @param {Placed} place @param {Grid} grid */
function drawKept(context, thumb, place, grid) {
  const { x, y, width, height, kept } = place;
  const [sx, sy] = [thumb.width / width, thumb.height / height];
  eachTile(place, grid, (cell, left, top, across, down) => {
    if (!kept[cell]) return;
    context.globalAlpha = Math.sqrt(kept[cell] / 255); // keep a token visible if only a few layers hold it
    context.drawImage(thumb, (left - x) * sx, (top - y) * sy, across * sx, down * sy, left, top, across, down);
    context.globalAlpha = 1;
    edge(context, strength(place, cell), left, top, across, down);
  });
}

/**
 * The label of a moment: its time (`when`) at the left, its kept share (`much`) at the right.
 * @param {Brush} context
 * @param {Area} place
 * @param {string} when
 * @param {string} much
 * @param {string} colour
 */
export function drawLabel(context, { x, y, width, height }, when, much, colour) {
  const scale = density();
  context.fillStyle = colour;
  context.font = `${11 * scale}px ui-rounded, system-ui, sans-serif`;
  context.textBaseline = "bottom";
  const base = y + height + (LABEL - 3) * scale;
  context.textAlign = "left";
  context.fillText(when, x + 3 * scale, base);
  if (width < ROOM_FOR_BOTH * scale) return;
  context.textAlign = "right";
  context.fillText(much, x + width - 3 * scale, base);
}

/**
 * Tokens that were just dropped glow; `left` falls from 1 to 0.
 * @param {Brush} context
 * @param {Float32Array} cells lost share of each tile
 * @param {number} left
 * @param {Area} place
 * @param {Grid} grid
 */
export function drawGlow(context, cells, left, place, grid) {
  eachTile(place, grid, (cell, ...tile) => {
    if (cells[cell] < 0.05) return;
    context.fillStyle = ink(ROSE, 0.85 * left * cells[cell]);
    context.fillRect(...tile);
  });
}
