"""The cost of a cache policy in a session of its own."""

from __future__ import annotations

import time

import numpy as np
import torch

from cache.config import HEADS_OF, CacheConfig
from model.distill.evaluation.free_videos import SEED
from model.stream.video_stream import VideoStream
from model.transformer.attention import prompt_keys
from model.weights import LoadedModel

PROMPT = "a meadow by day"
TIMED = 4  # the last chunks of a session, when its cache is full


def cost(model: LoadedModel, config: CacheConfig, chunks: int) -> dict[str, float]:
    """Seconds of a chunk, of its clean pass, of scoring and pruning, and of the head alone, and the allocated bytes of
    the cache on the device and the host, at the end of a session of ``chunks`` chunks of its own."""
    stream, seconds = VideoStream(model, PROMPT, SEED, config), []
    for _ in range(chunks):
        chunk = stream.next_chunk()
        by_stage = chunk.stats.seconds
        seconds.append([sum(by_stage.values()), by_stage["clean"], by_stage["prune"]])
    total, clean, prune = np.median(seconds[-TIMED:], axis=0)
    found = {"chunk": float(total), "clean": float(clean), "prune": float(prune), "bytes": stream.cache.nbytes}
    found |= {"host": stream.cache.host_nbytes}
    return found | ({"head": head_seconds(model, stream, config.policy)} if config.policy in HEADS_OF else {})


def head_seconds(model: LoadedModel, stream: VideoStream, policy: str) -> float:
    """Seconds of the policy's heads for one chunk over all layers: the median of 20 runs."""
    cache, seconds = stream.cache, []
    heads, told = model.heads, prompt_keys(model.dit.encode_context(model.text.encode(PROMPT)[None, None]))
    held = [cache.committed(layer) for layer in range(cache.layers)]
    for _ in range(20):
        began = time.perf_counter()
        for layer, (keys, values) in enumerate(held):
            if "asking" in HEADS_OF[policy] and heads.asking is not None:
                heads.asking.asked(layer, torch.cat((values, values[: cache.chunk])), told[layer]).cpu()
            if heads.salience is not None:
                heads.salience.score(layer, keys[: cache.chunk], values[: cache.chunk]).cpu()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
