// Fragmented MP4 into a <video> through Media Source Extensions: append, evict, keep up, recover.

const KEEP_BEHIND = 12; // seconds of past kept for the decoder; older ranges are evicted
const START_WITH = 1.0; // seconds buffered before the first play; the first picture shows before that
const START_ANYWAY_MS = 1500; // play whatever is there after this long
const TOO_FAR = 4.0; // seconds of lead that mean the playhead was left behind
const LAND_AT = 1.0; // seconds of lead after a jump forward
const GAP = 0.12; // seconds; a smaller hole is stepped over by the browser itself
const STUCK_MS = 1200; // playhead still with pictures ahead
const TICK_MS = 200;
const REBUILDS = 5; // attempts between two healthy stretches
const REBUILD_AFTER_MS = 100;
const DECODED_AHEAD = 0.5; // seconds that a decoder may be ahead of the playhead when it fails
const SLOWEST = 0.8; // of the normal pace: slower looks like slow motion
const EASE_BELOW = 0.4; // seconds of lead below which it plays slower, so that it need not stop
const NOTHING_AHEAD = 0.05; // seconds of lead that are no picture any more

const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

/** Whether this browser can play `mime` at all. */
export function canPlay(mime) {
  return Boolean(Source?.isTypeSupported(mime));
}

/** Bytes before the first `moof` box: what a fresh SourceBuffer needs before any fragment. Empty if there is none. */
export function initSegment(data) {
  const view = new DataView(data);
  for (let at = 0; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x6d6f6f66) return data.slice(0, at);
    if (size < 8) break;
    at += size;
  }
  return new ArrayBuffer(0);
}

/** The pace for so many seconds of lead: 1 while there is enough, ever slower down to SLOWEST where it runs out. */
export function paceAt(lead) {
  return Math.max(SLOWEST, Math.min(1, 1 - (1 - SLOWEST) * (1 - lead / EASE_BELOW)));
}

/**
 * Plays one stream in a <video>. Fragments are kept until they are behind the playhead: a decoder that fails is thrown away,
 * and the next one begins with what was not shown yet. Events: firstpicture, playing, progress, waiting, ended, blocked (the browser wants a gesture),
 * failed [message]. Positions and leads are in seconds of media time.
 */
export class Player extends EventTarget {
  #video;
  #source = null;
  #buffer = null;
  #queue = []; // fragments {data, end} to append; "end" in seconds is known once the decoder has them
  #unplayed = []; // those that it has, up to the playhead
  #appending = null; // the one that it is reading
  #init = null;
  #received = 0; // seconds of media that came, whatever became of them
  #at = 0; // where the decoder in hand began
  #mime = "";
  #begunAt = 0;
  #rebuilds = 0;
  #rebuilding = false;
  #finishing = false;
  #running = false;
  #playing = false;
  #held = false; // by the viewer
  /** Seconds by which it is ahead of somebody who plays in step with it. */
  ahead = 0;
  #still = { at: 0, since: 0 };
  #timer = 0;

  constructor(video) {
    super();
    this.#video = video;
    video.addEventListener("loadedmetadata", () => this.#running && this.#goOn());
    video.addEventListener("loadeddata", () => this.#running && this.#emit("firstpicture"));
    video.addEventListener("playing", () => this.#emit("playing"));
    video.addEventListener("timeupdate", () => this.#running && this.#emit("progress"));
    video.addEventListener("waiting", () => this.#running && this.#emit("waiting"));
    video.addEventListener("ended", () => this.#end());
    video.addEventListener("error", () => this.#running && this.#rebuild());
  }

  get position() {
    return Math.max(this.#at, this.#video.currentTime);
  }

  /** The position that a server should know: what came and cannot be shown (it was broken) counts as played. */
  get playhead() {
    const ahead = this.#rebuilding || this.#queue.length || this.#appending || this.lead > NOTHING_AHEAD;
    return ahead ? this.position : Math.max(this.position, this.#received);
  }

  /** Seconds of media that came. */
  get received() {
    return this.#received;
  }

  /** Seconds buffered ahead of the playhead, or of where it will go when it stands before all that there is. */
  get lead() {
    const { buffered } = this.#video;
    return buffered.length ? Math.max(0, this.#bufferedUntil - Math.max(this.position, buffered.start(0))) : 0;
  }

  get #bufferedUntil() {
    const { buffered } = this.#video;
    return buffered.length ? buffered.end(buffered.length - 1) : 0;
  }

  get framesShown() {
    return this.#video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0;
  }

  /** Begin a stream of type `mime`; throws when the browser cannot play it. */
  begin(mime) {
    if (!canPlay(mime)) throw new Error(mime);
    this.halt();
    this.#mime = mime;
    this.#forget();
    this.#init = null;
    this.#rebuilds = this.#received = this.#at = 0;
    this.#finishing = this.#playing = this.#held = this.#rebuilding = false;
    this.#running = true;
    this.#begunAt = performance.now();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#attach();
  }

  /** The next fragment of the stream, and the seconds of media in it. */
  append(data, seconds) {
    if (!this.#running) return;
    if (!this.#init) {
      this.#init = initSegment(data);
    }
    this.#received += seconds;
    this.#queue.push({ data, end: Infinity });
    this.#pump();
  }

  /** No more fragments will come: play what is there, then end. */
  finish() {
    this.#finishing = true;
    this.#pump();
  }

  /** Freeze on the current picture. */
  halt() {
    clearInterval(this.#timer);
    this.#running = false;
    this.#forget();
    this.#video.pause();
  }

  /** Stand still until `resume`; what comes meanwhile is kept. */
  pause() {
    this.#held = true;
    this.#video.pause();
  }

  /** Go on: after `pause`, or after a gesture when the browser refused to start on its own. */
  resume() {
    this.#held = false;
    if (this.#running) this.#play();
  }

  #forget() {
    this.#queue = [];
    this.#unplayed = [];
    this.#appending = null;
  }

  #attach() {
    const source = new Source();
    this.#source = source;
    this.#buffer = null;
    const url = URL.createObjectURL(source);
    source.addEventListener(
      "sourceopen",
      () => {
        URL.revokeObjectURL(url);
        if (this.#source !== source) return;
        const buffer = (this.#buffer = source.addSourceBuffer(this.#mime));
        buffer.addEventListener("updateend", () => this.#buffer === buffer && this.#updated());
        this.#pump();
      },
      { once: true },
    );
    this.#video.disableRemotePlayback = true; // ManagedMediaSource insists on it
    this.#video.src = url;
  }

  // A decoder that begins late begins where the one before it failed.
  #goOn() {
    if (this.#video.currentTime < this.#at) this.#video.currentTime = this.#at;
  }

  #updated() {
    if (this.#source.readyState !== "open") return; // it could not be read: the error event follows
    const { buffered } = this.#video;
    if (this.#appending && buffered.length) {
      this.#appending.end = buffered.end(buffered.length - 1);
      this.#unplayed.push(this.#appending);
    }
    this.#appending = null;
    this.#unplayed = this.#unplayed.filter(({ end }) => end > this.position);
    this.#pump();
  }

  #pump() {
    if (!this.#buffer || this.#buffer.updating || this.#source.readyState !== "open") return;
    if (this.#evict(KEEP_BEHIND)) return;
    const fragment = this.#queue.shift();
    if (fragment) return this.#push(fragment);
    if (this.#finishing) this.#source.endOfStream();
  }

  #push(fragment) {
    this.#appending = fragment;
    try {
      this.#buffer.appendBuffer(fragment.data);
    } catch (error) {
      if (error.name !== "QuotaExceededError") return this.#rebuild();
      this.#appending = null;
      this.#queue.unshift(fragment);
      if (!this.#evict(1)) setTimeout(() => this.#pump(), 500);
    }
  }

  // Every fragment begins with a key frame, so a cut more than a fragment behind the playhead cannot lose its decoder.
  #evict(keep) {
    const { buffered, currentTime } = this.#video;
    const until = currentTime - keep;
    if (!buffered.length || buffered.start(0) > until - (keep > 1 ? KEEP_BEHIND / 2 : 0) || until <= 0) return false;
    this.#buffer.remove(0, until);
    return true;
  }

  #tick() {
    if (this.#video.readyState) this.#goOn();
    if (this.#held) return;
    if (!this.#playing) return this.#maybeStart();
    this.#stepOverGap();
    this.#ease();
    this.#catchUp();
    this.#unstick();
  }

  #maybeStart() {
    const patience = performance.now() - this.#begunAt > START_ANYWAY_MS;
    if (this.lead >= START_WITH || (this.lead > 0 && (patience || this.#finishing))) this.#play();
  }

  async #play() {
    this.#playing = true;
    this.#still = { at: this.position, since: performance.now() };
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name === "NotAllowedError") this.#emit("blocked");
    }
  }

  #stepOverGap() {
    const { buffered, currentTime } = this.#video;
    for (let i = 0; i < buffered.length; i++) {
      if (currentTime < buffered.start(i)) {
        if (buffered.start(i) - currentTime > GAP || this.#video.readyState < 3) this.#video.currentTime = buffered.start(i) + 0.01;
        return;
      }
      if (currentTime < buffered.end(i) - 0.05) return;
    }
  }

  // Slower rather than stop and go where chunks come slower than they play, and where the other one is behind.
  #ease() {
    const pace = Math.min(paceAt(this.#finishing ? Infinity : this.lead), Math.max(SLOWEST, 1 - this.ahead / 2));
    if (Math.abs(this.#video.playbackRate - pace) > 0.01) this.#video.playbackRate = pace;
  }

  #catchUp() {
    if (this.lead > TOO_FAR) this.#video.currentTime = this.#bufferedUntil - LAND_AT;
  }

  #unstick() {
    const now = performance.now();
    if (this.position !== this.#still.at || this.lead < 0.3) {
      if (this.lead >= 0.3) this.#rebuilds = 0;
      this.#still = { at: this.position, since: now };
    } else if (now - this.#still.since > STUCK_MS) {
      this.#still.since = now;
      if (this.#video.paused) this.#play();
      else this.#video.currentTime = this.position + 0.05;
    }
  }

  // The server waits for the playhead, so what was there before must be there again, or the playhead never moves.
  #rebuild() {
    if (this.#rebuilding) return;
    if (++this.#rebuilds > REBUILDS || !this.#init?.byteLength) return this.#fail();
    this.#rebuilding = true;
    this.#at = this.position;
    this.#queue = [{ data: this.#init, end: 0 }, ...this.#trusted(), ...this.#queue];
    this.#unplayed = [];
    this.#appending = this.#buffer = null; // what arrives meanwhile must wait for the new one, behind the init segment
    this.#playing = false;
    this.#begunAt = performance.now();
    setTimeout(() => {
      this.#rebuilding = false;
      if (this.#running) this.#attach();
    }, REBUILD_AFTER_MS);
  }

  // The fragment that could not be read is left out. Where none is to blame all are tried once more, then those behind the
  // place of the accident, then only what is new.
  #trusted() {
    const ahead = this.#unplayed.filter(({ end }) => end > this.#at);
    if (this.#appending || this.#rebuilds === 1) return ahead;
    return this.#rebuilds === 2 ? ahead.filter((_, i) => i && ahead[i - 1].end > this.#at + DECODED_AHEAD) : [];
  }

  #fail() {
    const reason = this.#video.error?.message || "the decoder gave up";
    this.halt();
    this.#emit("failed", reason);
  }

  #end() {
    if (!this.#running) return;
    this.halt();
    this.#emit("ended");
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
