// Elements by id, and canvases.

/**
 * The element with this id, of class `kind`. Throws if there is none.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {{new (): T}} kind
 * @returns {T}
 */
export function byId(id, kind = /** @type {any} */ (HTMLElement)) {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new TypeError(`the page has no ${kind.name} called ${id}`);
  return element;
}

/**
 * The first element in `root` that matches `selector`. Throws if there is none.
 * @param {Element} root
 * @param {string} selector
 */
export function part(root, selector) {
  const found = root.querySelector(selector);
  if (!found) throw new TypeError(`the page has no ${selector} in ${root.id}`);
  return found;
}

/**
 * The 2D context of `canvas`. Throws if the browser has none.
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} [settings]
 */
export function brush(canvas, settings) {
  const context = canvas.getContext("2d", settings);
  if (!context) throw new TypeError("this browser draws nothing on a canvas");
  return context;
}

/**
 * A canvas outside the page, and its 2D context.
 * @param {number} width
 * @param {number} height
 */
export function offscreen(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (!context) throw new TypeError("this browser draws nothing on a canvas");
  return { canvas, context };
}
