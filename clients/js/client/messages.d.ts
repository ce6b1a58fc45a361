// Made by `python -m deploy.generate`; do not edit.

export interface VideoStart {
  type: "video.start";
  request_id: string;
  session_id: string;
  format: string;
  mime: string;
  config: SessionConfig;
  unknown_words: string[];
  warnings: string[];
  resumed: boolean;
  next_chunk_index: number;
  resume_token?: string;
}

export interface SessionConfig {
  model: string;
  prompt: string;
  width: number;
  height: number;
  fps: number;
  num_frames: number | null;
  seed: number;
  chunk_frames: number;
  streaming_buffer_seconds: number;
  extra_params: ExtraParams;
  memory?: MemoryShape;
}

export interface ExtraParams {
  cache: CacheChoice;
}

export interface CacheChoice {
  policy: string;
  budget_latents: number;
  sink_latents: number;
  recent_latents: number;
  position_mode?: string;
  kv_dtype?: string;
}

export interface MemoryShape {
  pictures_per_latent: number;
  first_latent_pictures: number;
  tokens_per_latent: number;
}

export interface ChunkMetadata {
  type: "video.chunk_metadata";
  kind: "media" | "trailer";
  transport_chunk_index: number;
  generation_chunk_index: number;
  num_frames: number;
  byte_length: number;
  request_id: string;
  started_event_ids: string[];
  active_event_ids: string[];
  completed_event_ids: string[];
  stats: ServedStats;
  frame_sizes?: number[];
}

export interface ServedStats {
  /** Time by stage: text, denoise, clean, decode, prune; the server adds encode, total. */
  seconds: Record<string, number>;
  /** Tokens that the fullest layer holds. */
  cache_tokens: number;
  /** Bytes that the cache takes on the device. */
  cache_bytes: number;
  /** Tokens evicted from the layer that lost most. */
  evicted_tokens: number;
  /** Policy in force; with cache_fell_back another than was asked for. */
  cache_policy: string;
  /** Scores were not finite, so a policy without scores took over. */
  cache_fell_back: boolean;
  /** Quantiles of the kept tokens' scores over all layers; empty without scores. */
  salience_quantiles: Record<string, number>;
  /** The words that the chunk shows. */
  prompt: string;
  camera: CameraView;
  /** Time from noise to encoded bytes. */
  chunk_seconds: number;
  /** Media that the viewer has ahead of its playhead. */
  lead_seconds: number;
  /** The kept tokens, for a session that asked for them. */
  memory?: KeptTokens;
}

export interface CameraView {
  /** World column of the picture's left edge, from where the session began. */
  offset: number;
  /** Pixels per picture, + is right. */
  speed: number;
}

export interface KeptTokens {
  rows: number;
  columns: number;
  latents: number[];
  /** Share of the layers that hold the token, 0 to 255. */
  kept: string;
  /** Mean rank of its score among the kept, 0 to 255; empty without scores. */
  salience: string;
}

export interface InteractionQueued {
  type: "session.interaction.queued";
  event_id: string;
  unknown_words: string[];
  warnings: string[];
}

export interface InteractionApplied {
  type: "session.interaction.applied";
  event_id: string;
  chunk_index: number;
}

export interface InteractionRejected {
  type: "session.interaction.rejected";
  event_id: string;
  code: string;
  message: string;
  param: string | null;
}

export interface SessionQueued {
  type: "session.queued";
  position: number;
  queue_depth: number;
  seconds?: number;
}

export interface SessionInterrupted {
  type: "session.interrupted";
  session_id: string;
  reason: string;
}

export interface SessionPaused {
  type: "session.paused";
  session_id: string;
  next_chunk_index: number;
}

export interface SessionResumed {
  type: "session.resumed";
  session_id: string;
  next_chunk_index: number;
}

export interface SessionPong {
  type: "session.pong";
}

export interface SessionDone {
  type: "session.done";
  session_id: string;
  chunks: number;
  stopped: boolean;
  reason: string;
  resumable: boolean;
  request_id: string;
}

export interface Error {
  type: "error";
  code: string;
  message: string;
  param: string | null;
  retryable: boolean;
  retry_after_seconds?: number;
  event_id?: string;
}

export interface SessionStart {
  type: "session.start";
  model?: string;
  prompt: string;
  format?: string;
  width?: number;
  height?: number;
  fps?: number;
  num_frames?: number;
  seed?: number;
  extra_params?: { cache?: { policy?: string; budget_latents?: number; budget_tokens?: number; window_latents?: number; sink_latents?: number; recent_latents?: number; position_mode?: "relative" | "absolute"; kv_dtype?: "auto" | "bf16" | "int8" | "int4" } };
  /** first picture of the video, as a data URL */
  image?: unknown;
  /** the same, under another server's field name */
  image_reference?: unknown;
  size?: string;
  seconds?: number | string;
  num_inference_steps?: number;
  streaming_buffer_seconds?: number;
  memory?: boolean;
  interactions?: { event_id?: string; event: { prompt?: string; multi_modal_data?: { camera?: { mode?: "velocity"; data?: { translation: number[]; rotation?: number[] }; speed?: number; pan?: "left" | "right" | "hold"; cut_to?: number; rise?: number } } }; transition_chunks?: number; at_chunk?: number }[];
}

export interface SessionInteraction {
  type: "session.interaction";
  /** ``at_chunk``: first chunk that shows the change. Omitted or already generated: the next chunk. */
  interaction: { event_id?: string; event: { prompt?: string; multi_modal_data?: { camera?: { mode?: "velocity"; data?: { translation: number[]; rotation?: number[] }; speed?: number; pan?: "left" | "right" | "hold"; cut_to?: number; rise?: number } } }; transition_chunks?: number; at_chunk?: number };
}

export interface SessionPlayback {
  type: "session.playback";
  position_seconds: number;
}

export interface SessionPing {
  type: "session.ping";
}

export interface SessionStop {
  type: "session.stop";
}

export interface SessionPause {
  type: "session.pause";
}

export interface SessionResume {
  type: "session.resume";
  session_id?: string;
  token?: string;
  last_chunk_index?: number;
  format?: string;
}

export interface SessionWatch {
  type: "session.watch";
  session_id: string;
  format?: string;
}

export type ServerMessage = VideoStart | ChunkMetadata | InteractionQueued | InteractionApplied | InteractionRejected | SessionQueued | SessionInterrupted | SessionPaused | SessionResumed | SessionPong | SessionDone | Error;

export type ClientMessage = SessionStart | SessionInteraction | SessionPlayback | SessionPing | SessionStop | SessionPause | SessionResume | SessionWatch;
