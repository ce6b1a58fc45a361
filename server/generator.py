"""What the worker asks of a model, and the one place where the server meets torch (inside the worker only)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from model.camera import CameraControl
from model.spec import ModelSpec, spec_named
from server.messages import CacheChoice, Configure

if TYPE_CHECKING:
    from model.weights import LoadedModel

RANDOM_WEIGHTS = "random, for tests: the pictures mean nothing"
SHIPPED_WEIGHTS = "shipped with pafu"
Pictures = np.ndarray[Any, np.dtype[np.uint8]]


class StartError(RuntimeError):
    """The worker can never start like this; the message tells the operator what to change."""


class Chunk(Protocol):
    """What one call of ``next_chunk`` brings: pictures (T, H, W, 3) uint8 and how it went."""

    @property
    def pictures(self) -> Pictures: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...
    @property
    def cache_tokens(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def evicted_tokens(self) -> int: ...
    @property
    def camera_offset(self) -> int: ...
    @property
    def camera_speed(self) -> int: ...
    @property
    def cache_policy(self) -> str: ...
    @property
    def cache_fell_back(self) -> bool: ...


class Stream(Protocol):
    """One session's generation (model.stream.VideoStream, or a test's own); changes count from the next chunk."""

    def next_chunk(self) -> Chunk: ...
    def set_prompt(self, text: str) -> None: ...
    def set_camera(self, control: CameraControl) -> None: ...


class Generator(Protocol):
    """A loaded model that opens streams."""

    spec: ModelSpec
    weights: str
    device: str
    versions: dict[str, str]

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> Stream: ...


class ModelGenerator:
    """The real thing: a LoadedModel and streams over it."""

    def __init__(self, model: LoadedModel, weights: str, device: str, versions: dict[str, str]) -> None:
        self.spec: ModelSpec = model.spec
        self.weights = weights
        self.device = device
        self.versions = versions
        self._model = model

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> Stream:
        from cache.config import CacheConfig
        from model.stream import VideoStream

        config = CacheConfig(
            policy=cache.policy,
            budget_latents=cache.budget_latents,
            sink_latents=cache.sink_latents,
            recent_latents=cache.recent_latents,
            position_mode="relative",
        )
        return VideoStream(self._model, prompt, seed, config)


def pick_device(wanted: str) -> str:
    """The device to run on. Raises StartError when it is not there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StartError("device 'cuda' was asked for, but torch sees no CUDA device; set PAFU_DEVICE=cpu or auto")
    return wanted


def load_model(name: str, weights: str | None, device: str) -> tuple[LoadedModel, str]:
    """The model and a few words on its weights. Raises StartError naming the file that is missing or wrong."""
    from model.weights import WeightsError, random_model
    from model.weights import load_model as load

    spec = spec_named(name)
    if name == "test-tiny" and weights is None:
        return coloured(random_model(spec, seed=0, device=device)), RANDOM_WEIGHTS
    try:
        return load(spec, Path(weights) if weights else None, device), weights or SHIPPED_WEIGHTS
    except (WeightsError, OSError) as error:
        raise StartError(str(error)) from error


def coloured(model: LoadedModel) -> LoadedModel:
    """Fill what a fresh decoder leaves at zero: its pictures would all be grey, and no test could see a change."""
    import torch

    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weights = model.vae.state_dict()
        for tensor in (weights["basis"], weights["decoder.paint.weight"]):
            if not tensor.any():
                noise = torch.randn(tensor.shape, generator=source) * (0.5 / tensor[0].numel() ** 0.5)
                tensor.copy_(noise.to(tensor.dtype))
    return model


def load_generator(configure: Configure) -> Generator:
    """Load the model that ``configure`` names. Raises StartError when that can never work."""
    import torch

    from server.process import usable_cores

    torch.set_num_threads(configure.threads or usable_cores())
    torch.set_grad_enabled(False)
    device = pick_device(configure.device)
    model, weights = load_model(configure.model, configure.weights, device)
    return ModelGenerator(model, weights, device, {"torch": str(torch.__version__)})
