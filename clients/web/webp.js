// Joins WebP stills, which the browser encodes, into an animated WebP (container: RFC 9649). No DOM.

const PICTURE = ["ALPH", "VP8 ", "VP8L"]; // the chunks of a still that hold its picture
const ANIMATED = 0x02;

/**
 * @param {ArrayBuffer[]} stills WebP files of `width` x `height` pixels, without alpha
 * @param {{width: number, height: number, milliseconds: number}} about duration of each still; the animation repeats for ever
 */
export function animated(stills, { width, height, milliseconds }) {
  const size = [...little(width - 1, 3), ...little(height - 1, 3)];
  const head = chunk("VP8X", [ANIMATED, 0, 0, 0, ...size]);
  const loop = chunk("ANIM", [0, 0, 0, 0, 0, 0]);
  const frame = [...little(0, 6), ...size, ...little(milliseconds, 3), 0];
  const frames = stills.map((still) => chunk("ANMF", frame, ...pictureOf(still)));
  return new Blob([...chunk("RIFF", [...name("WEBP")], ...head, ...loop, ...frames.flat())], { type: "image/webp" });
}

/** The parts of a RIFF chunk: name, length, content, and padding to an even length. @param {string} type @param {number[]} begin @param {Uint8Array<ArrayBuffer>[]} more */
function chunk(type, begin, ...more) {
  const length = more.reduce((sum, part) => sum + part.length, begin.length);
  const parts = [Uint8Array.from([...name(type), ...little(length, 4), ...begin]), ...more];
  return length % 2 ? [...parts, new Uint8Array(1)] : parts;
}

/** The chunks of a still that hold its picture. @param {ArrayBuffer} still @returns {Uint8Array<ArrayBuffer>[]} */
function pictureOf(still) {
  const view = new DataView(still);
  const found = [];
  for (let at = 12; at + 8 <= still.byteLength; ) {
    const type = String.fromCharCode(...new Uint8Array(still, at, 4));
    const size = view.getUint32(at + 4, true);
    const whole = 8 + size + (size % 2);
    if (PICTURE.includes(type)) found.push(new Uint8Array(still, at, Math.min(whole, still.byteLength - at)));
    at += whole;
  }
  return found;
}

const name = (/** @type {string} */ text) => new TextEncoder().encode(text);
/** @param {number} value @param {number} bytes */
const little = (value, bytes) => Array.from({ length: bytes }, (_, place) => Math.floor(value / 256 ** place) % 256);
