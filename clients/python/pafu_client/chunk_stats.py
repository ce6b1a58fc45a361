"""A chunk's figures as they come over the wire. Made by `python -m server.http.client_types`; do not edit."""

from __future__ import annotations

from typing import TypedDict


class CameraView(TypedDict, total=False):
    """Where the next chunk begins."""

    offset: int  # World column of the picture's left edge, from where the session began
    speed: int  # Pixels per picture, + is right


class KeptTokens(TypedDict, total=False):
    """What the cache holds: for each of ``latents`` a picture of rows x columns bytes, base64."""

    rows: int
    columns: int
    latents: list[int]
    kept: str  # Share of the layers that hold the token, 0 to 255
    salience: str  # Mean rank of its score among the kept, 0 to 255; empty without scores


class ChunkStats(TypedDict, total=False):
    """What a chunk cost and what the cache holds after it; an older server may leave fields out."""

    seconds: dict[str, float]  # Time by stage: text, denoise, clean, decode, prune; the server adds encode, total
    cache_tokens: int  # Tokens that the fullest layer holds
    cache_bytes: int  # Bytes that the cache takes on the device
    evicted_tokens: int  # Tokens evicted from the layer that lost most
    cache_policy: str  # Policy in force; with cache_fell_back another than was asked for
    cache_fell_back: bool  # Scores were not finite, so a policy without scores took over
    salience_quantiles: dict[str, float]  # Quantiles of the kept tokens' scores over all layers; empty without scores
    prompt: str  # The words that the chunk shows
    camera: CameraView
    chunk_seconds: float  # Time from noise to encoded bytes
    lead_seconds: float  # Media that the viewer has ahead of its playhead
    memory: KeptTokens  # The kept tokens, for a session that asked for them
