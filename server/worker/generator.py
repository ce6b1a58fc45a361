"""The interface between worker and model. The only module of the server that uses torch."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from cache.config import CACHE_SHARE, CacheConfig
from model import gpu
from model.camera import CameraControl, CameraState
from model.checkpoints import hub
from model.checkpoints.errors import of_part
from model.spec import RANDOM_WEIGHTS as RANDOM_MODELS
from model.spec import ModelSpec, spec_named
from model.stream.chunk_stats import ChunkStats, KeptTokens
from server.ipc.messages import CacheChoice, Configure, Parts, Past, PastChunk
from server.process import available_bytes

if TYPE_CHECKING:
    import torch

    import model.stream.stream_state
    import model.stream.video_stream
    from cache.group import Group
    from model.checkpoints.public import Beside
    from model.stream.video_stream import VideoStream
    from model.weights import LoadedModel

RANDOM_WEIGHTS = "random weights for tests: the pictures are meaningless"
WITH_WEIGHTS = Parts()
NO_NAMES: Mapping[str, str] = {}
SHIPPED_WEIGHTS = "shipped with pafu"
MIB = 2**20
Pictures = np.ndarray[Any, np.dtype[np.uint8]]


class StartError(RuntimeError):
    """The worker cannot start with this configuration; the message says what to change."""


class DeviceLost(RuntimeError):
    """A device, or another process of the worker's group, is lost: the worker must end. The message says which."""


class GeneratedChunk(Protocol):
    """Pictures (T, H, W, 3) uint8 with their statistics (model.stream.video_stream.Chunk)."""

    @property
    def pictures(self) -> Pictures: ...
    @property
    def stats(self) -> ChunkStats: ...
    @property
    def camera(self) -> CameraState: ...
    @property
    def remembered(self) -> tuple[int, ...]: ...


class Stream(Protocol):
    """One session's generation (``VideoStream``, or a test's); changes apply from the next chunk on.

    ``decode`` takes the results of ``next_latents`` in order, and may run in another thread.
    """

    def next_latents(self, before_pass: Callable[[], None] | None = None) -> Any: ...
    def decode(self, chunk: Any) -> GeneratedChunk: ...
    def set_prompt(self, text: str) -> None: ...
    def set_camera(self, control: CameraControl) -> None: ...
    def kept(self) -> KeptTokens: ...


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a PNG from ``server.media.picture.fitted`` to (H, W, 3) uint8."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.array(image.convert("RGB"))


class Generator(Protocol):
    """A loaded model that opens streams."""

    spec: ModelSpec
    weights: str
    digest: str  # identifies the weights
    device: str
    versions: dict[str, str]
    dtype: str  # of the caches

    @property
    def lacking(self) -> dict[str, str]:
        """The cache policies that these weights cannot serve, each with the reason."""

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> Stream: ...
    def snapshot(self, stream: Any) -> bytes:
        """A stream's complete state as safetensors."""

    def restore(self, snapshot: bytes) -> Stream:
        """Restore a stream from its snapshot. Raises ValueError if another model made it."""

    def decoding_thread(self) -> Executor:
        """A new one-thread executor for decoding and encoding, parallel to the step loop."""

    def free_bytes(self) -> int:
        """Free device memory in bytes."""

    def working_bytes(self, cache: CacheChoice, text_placement: str) -> int:
        """The peak of a chunk's temporary memory on the device, with this cache, and of a visit of the text encoder."""

    def release_memory(self) -> None:
        """Free memory left by a failed session."""

    def keep(self, chunk: Any) -> PastChunk:
        """A chunk in the form that is stored outside the worker."""

    def begin_with(self, stream: Any, image: bytes) -> None:
        """Start a new stream with the picture ``image``, PNG of the model's size."""

    def recall(self, stream: Any, past: Past) -> None:
        """Restore a lost stream's state in a new stream. Raises ValueError if another model made the past."""


class DecodingThread(ThreadPoolExecutor):
    """A thread that decodes and encodes chunks, one after the other; torch uses one core in it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(1, "decode", initializer=_use_one_core, initargs=(device,))
        self._newest: Future[Any] | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._newest = super().submit(fn, *args, **kwargs)
        return self._newest

    @property
    def idle(self) -> bool:
        """Whether all submitted tasks are done."""
        return self._newest is None or self._newest.done()


class ModelGenerator:
    """A Generator for a LoadedModel. Passes use as many cores as torch uses when it is made."""

    def __init__(self, model: LoadedModel, weights: str, device: str, versions: dict[str, str]) -> None:
        import torch

        self.spec: ModelSpec = model.spec
        self.weights = weights
        self.digest = model.digest
        self.device = device
        self.versions = versions
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.model = model
        self._cores = torch.get_num_threads()

    @property
    def lacking(self) -> dict[str, str]:
        from model.stream.session_cache import lacking

        return lacking(self.model)

    @property
    def torch_device(self) -> torch.device:
        """Where this process computes."""
        return self.model.device

    def join(self, group: Group) -> None:
        """Generate together with the other processes of ``group``, before the first stream is opened."""
        from model.group.shared_parts import shared

        self.model = shared(self.model, group)

    def snapshot(self, stream: VideoStream) -> bytes:
        return stream.snapshot()

    def restore(self, snapshot: bytes) -> VideoStream:
        from model.stream.video_stream import VideoStream

        return VideoStream.restore(self.model, snapshot)

    def decoding_thread(self) -> Executor:
        """See the protocol. While it works, passes leave a core to it."""
        self._decoding = DecodingThread(self.model.device)
        self.model.passes.before_each = self._share_cores
        return self._decoding

    def _share_cores(self) -> None:
        """Torch uses all cores in the calling thread, or one less while the decoding thread works: threads that wait
        for each other on a shared core cost more than they gain. The number of threads does not change a pass's
        bits."""
        import torch

        wanted = self._cores if self._decoding.idle else max(1, self._cores - 1)
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)

    def free_bytes(self) -> int:
        import torch

        if self.model.device.type == "cuda":
            self.release_memory()  # memory cached by torch counts as free
            free, _ = torch.cuda.mem_get_info(self.model.device)
            return free
        return available_bytes()

    def working_bytes(self, cache: CacheChoice, text_placement: str) -> int:
        from model.checkpoints.public import TINY_CODEC, TINY_CODEC_MEMORY
        from model.cost.memory import plan

        if not self.spec.public:  # small: its share of the free memory is enough
            return 0
        codec = TINY_CODEC if self.spec.codec_memory == TINY_CODEC_MEMORY else None
        model, devices = self.model, self.device.count("+") + 1
        return plan(self.spec, cache.config, model.dtype, model.device.type, text_placement, devices, codec).busy

    def release_memory(self) -> None:
        import torch

        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> VideoStream:
        from model.stream.video_stream import VideoStream

        self._check_host(cache.config)
        return VideoStream(self.model, prompt, seed, cache.config)

    def _check_host(self, cache: CacheConfig) -> None:
        """Raises MemoryError if a GPU's session finds no host memory for its evicted tokens. On a CPU, admission has
        counted it."""
        spec, group = self.spec, self.model.dit.group
        needed = cache.host_bytes(
            layers=spec.num_layers,
            heads=spec.num_heads // group.size,
            head_dim=spec.head_dim,
            tokens_per_latent=spec.tokens_per_latent,
            dtype=self.dtype,
        )
        free = available_bytes()
        if self.model.device.type == "cuda" and needed > CACHE_SHARE * free:
            raise MemoryError(
                f"policy {cache.policy!r} needs {needed / MIB:.0f} MiB of host memory, {free / MIB:.0f} MiB are free: "
                "set PAFU_CACHE_HOST_LATENTS lower, or choose a policy without host memory"
            )

    def keep(self, chunk: model.stream.video_stream.Chunk) -> PastChunk:
        past = chunk.past
        camera = past.camera.numbers
        latents = past.latents.float().cpu().numpy().tobytes()
        return PastChunk(index=past.index, prompt=past.prompt, camera=camera, latents=latents)

    def begin_with(self, stream: VideoStream, image: bytes) -> None:
        import torch

        stream.begin_with(torch.from_numpy(pixels(image)))

    def recall(self, stream: VideoStream, past: Past) -> None:
        chunks = [self._remembered(chunk) for chunk in past.chunks]
        stream.recall(chunks, past.next_index, CameraState.of(past.camera))

    def _remembered(self, chunk: PastChunk) -> model.stream.stream_state.PastChunk:
        import torch

        from model.stream.stream_state import PastChunk as Remembered

        spec = self.spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        if len(chunk.latents) != 4 * math.prod(shape):
            raise ValueError(f"past chunk {chunk.index} has {len(chunk.latents)} bytes of latents, expected {shape}")
        latents = torch.frombuffer(bytearray(chunk.latents), dtype=torch.float32).reshape(shape)
        return Remembered(chunk.index, chunk.prompt, CameraState.of(chunk.camera), latents)


def _use_one_core(device: torch.device) -> None:
    """Limit torch to one core in the calling thread.

    The first ``get_num_threads`` in a thread resets the number to the process's, so call it before setting one.
    """
    import torch

    torch.get_num_threads()
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the current device is per thread


def pick_device(wanted: str) -> str:
    """The device to run on; ``cuda`` is the first GPU. Raises StartError if it does not exist."""
    there = gpu.count()
    if wanted == "auto":
        return "cuda:0" if there else "cpu"
    kind, _, number = wanted.partition(":")
    if kind != "cuda":
        return kind
    if not there:
        raise StartError(f"device {wanted!r} was requested, but {gpu.why_none()}; or set PAFU_DEVICE to cpu or auto")
    if int(number or 0) >= there:
        raise StartError(f"device {wanted!r} was requested, but torch sees {there} GPUs, counted from 0")
    return f"cuda:{int(number or 0)}"


def device_bytes(device: str) -> dict[str, int]:
    """GPU memory in bytes by kind (server.telemetry.metrics.MEMORY_KINDS); in a group, of the first device. Empty on a
    CPU."""
    device = device.partition("+")[0]
    if not device.startswith("cuda"):
        return {}
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
        "free": free,
        "total": total,
    }


def load_model(
    name: str,
    weights: str | None,
    device: str,
    salience_head: str | None = None,
    parts: Parts = WITH_WEIGHTS,
    called: Mapping[str, str] = NO_NAMES,
    whole: bool = True,
) -> tuple[LoadedModel, str]:
    """Load the model, or unless ``whole`` its transformer; returns it and a description of its weights.

    Raises StartError, which names the missing or invalid file and the setting at fault (as in ``called``).
    """
    from model.weights import WeightsError, random_model, require_own_parts, with_head
    from model.weights import load_model as load

    spec = spec_named(name) if parts.size is None else spec_named(name).at(*parts.size)
    try:
        near = beside(parts, spec)
        if name in RANDOM_MODELS and weights is None:
            require_own_parts(spec, near, "random weights")
            random = random_model(spec, seed=0, device=device)
            return with_head(random, Path(salience_head)) if salience_head else random, RANDOM_WEIGHTS
        head = Path(salience_head) if salience_head else None
        place = hub.locate(weights, spec) if weights else None
        loaded = load(spec, place, device, head=head, beside=near, whole=whole)
        return loaded, weights or SHIPPED_WEIGHTS
    except (WeightsError, OSError) as error:
        at_fault = called.get(getattr(error, "part", "weights"))
        raise StartError(f"{at_fault}: {error}" if at_fault else f"{error} (--weights or PAFU_WEIGHTS)") from error


def beside(parts: Parts, spec: ModelSpec) -> Beside:
    """The locations of the model's other parts; those from the hub are already in its cache."""
    from model.checkpoints.public import Beside

    text, vae = _located(parts.text_encoder, "text_encoder", spec), _located(parts.vae, "vae", spec)
    return Beside(text_encoder=text, vae=vae, base=hub.base_of(spec), text_placement=parts.text_placement)


def _located(place: str | None, part: str, spec: ModelSpec) -> Path | None:
    with of_part(part):
        return hub.locate(place, spec) if place else None


def load_generator(configure: Configure, whole: bool = True) -> ModelGenerator:
    """Load the model that ``configure`` names, or unless ``whole`` its transformer. Raises StartError if that is
    impossible with this configuration."""
    import torch

    from model.transformer.packed import can_pack, pack
    from server.process import usable_cores

    torch.set_num_threads(configure.threads or usable_cores())
    torch.set_grad_enabled(False)
    device = pick_device(configure.device)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # the default for code that names no GPU
    head, parts, called = configure.salience_head, configure.parts, configure.called
    model, weights = load_model(configure.model, configure.weights, device, head, parts, called, whole)
    if can_pack(model.dit):
        pack(model.dit)
    return ModelGenerator(model, weights, device, {"torch": str(torch.__version__)})
