"""A stream's state and its snapshot."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from cache.config import CacheConfig
from model.camera import CameraState
from model.weights import LoadedModel

SNAPSHOT_FORMAT = 6


class StreamError(ValueError):
    """A change that the model cannot follow, or a snapshot of another model."""


@dataclasses.dataclass(frozen=True)
class PastChunk:
    """A finished chunk as stored outside the model, with enough data to write it to a cache again.

    prompt: as the model was told it. latents: (1, F, C, h, w) float32. camera: its state at the beginning of the chunk.
    """

    index: int
    prompt: str
    camera: CameraState
    latents: Tensor


@dataclasses.dataclass
class StreamState:
    """The state of a stream except its cache; ``index`` is the next chunk, ``prompt`` its prompt."""

    prompt: str
    seed: int
    config: CacheConfig
    recent: deque[PastChunk]  # the newest chunks, as many as a new prompt may rewrite
    told: str | None = None  # the words of the newest chunk; None before the first
    written_under: str | None = None  # as ``told``: the words under which they are in the cache
    named_at: int = 0  # where the camera was, in pixels, when the words last named a new thing
    seen: frozenset[int] = frozenset()  # places that were in view; see model.words.scenery
    camera: CameraState = CameraState()
    index: int = 0
    vae_state: list[Tensor] | None = None
    start: Tensor | None = None  # latents of the first chunk, for a stream that begins with a picture

    def packed(self, model: LoadedModel, cache: dict[str, Tensor]) -> bytes:
        """The state and the cache's snapshot, as safetensors bytes."""
        vae_state = self.vae_state or []
        tensors = {f"cache.{name}": tensor for name, tensor in cache.items()}
        tensors |= {f"vae.{place}": tensor.cpu().contiguous() for place, tensor in enumerate(vae_state)}
        tensors |= {} if self.start is None else {"start": self.start.cpu()}
        tensors |= {f"recent.{place}": past.latents.cpu().contiguous() for place, past in enumerate(self.recent)}
        state = {
            "format": SNAPSHOT_FORMAT,
            "model": model.spec.name,
            "digest": model.digest,
            "prompt": self.prompt,
            "told": self.told,
            "written_under": self.written_under,
            "named_at": self.named_at,
            "seen": sorted(self.seen),
            "recent": [(past.index, past.prompt, dataclasses.asdict(past.camera)) for past in self.recent],
            "seed": self.seed,
            "index": self.index,
            "camera": dataclasses.asdict(self.camera),
            "cache": dataclasses.asdict(self.config),
            "vae_tensors": len(vae_state),
        }
        text = json.dumps(state).encode()
        return save_safetensors({**tensors, "state": torch.frombuffer(bytearray(text), dtype=torch.uint8)})

    @classmethod
    def unpacked(cls, model: LoadedModel, snapshot: bytes) -> tuple[StreamState, dict[str, Tensor]]:
        """The state and the cache's snapshot. Raises StreamError if they are not of ``model``."""
        try:
            tensors = load_safetensors(snapshot)
            told = json.loads(tensors.pop("state").numpy().tobytes())
        except Exception as error:  # safetensors raises its own type as well as plain ValueErrors
            raise StreamError(f"the stream snapshot of {len(snapshot)} bytes cannot be read: {error}") from error
        _check_origin(model, told)
        held = {name.removeprefix("cache."): tensor for name, tensor in tensors.items() if name.startswith("cache.")}
        state = cls(
            prompt=told["prompt"],
            seed=told["seed"],
            config=CacheConfig(**told["cache"]),
            recent=deque(maxlen=model.spec.recache_chunks),
            told=told["told"],
            written_under=told["written_under"],
            named_at=told["named_at"],
            seen=frozenset(told["seen"]),
            camera=CameraState(**told["camera"]),
            index=told["index"],
            start=tensors["start"].to(model.device) if "start" in tensors else None,
        )
        for place, (index, prompt, camera) in enumerate(told["recent"]):
            latents = tensors[f"recent.{place}"].to(model.device)
            state.recent.append(PastChunk(index, prompt, CameraState(**camera), latents))
        if told["vae_tensors"] and model.dit.group.leads:  # the first process of a group decodes
            state.vae_state = [tensors[f"vae.{place}"].to(model.device) for place in range(told["vae_tensors"])]
        return state, held


def _check_origin(model: LoadedModel, state: dict[str, Any]) -> None:
    expected = {"format": SNAPSHOT_FORMAT, "model": model.spec.name, "digest": model.digest}
    for name, value in expected.items():
        if state.get(name) != value:
            raise StreamError(f"the stream snapshot has {name} {state.get(name)!r}, this model needs {value!r}")
