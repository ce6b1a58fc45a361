// Finds boxes in an MP4.

/**
 * Bytes before the first `moof` box: the init segment for a new SourceBuffer. Empty if there is none.
 * @param {ArrayBuffer | ArrayBufferLike} data
 */
export function initSegment(data) {
  const view = new DataView(data);
  for (let at = 0; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x6d6f6f66) return /** @type {ArrayBuffer} */ (data.slice(0, at));
    if (size < 8) break;
    at += size;
  }
  return new ArrayBuffer(0);
}
