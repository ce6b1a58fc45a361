// Elements of the document by their id, and canvases.

/**
 * The element called `id`, as what it must be. Throws for a document without it.
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
 * The part of `root` that `selector` finds first. Throws for a document without it.
 * @param {Element} root
 * @param {string} selector
 */
export function part(root, selector) {
  const found = root.querySelector(selector);
  if (!found) throw new TypeError(`the page has no ${selector} in ${root.id}`);
  return found;
}

/**
 * What draws on `canvas`. Throws where a browser gives none.
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} [settings]
 */
export function brush(canvas, settings) {
  const context = canvas.getContext("2d", settings);
  if (!context) throw new TypeError("this browser draws nothing on a canvas");
  return context;
}

/**
 * A canvas outside the page, and what draws on it.
 * @param {number} width
 * @param {number} height
 */
export function offscreen(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (!context) throw new TypeError("this browser draws nothing on a canvas");
  return { canvas, context };
}
