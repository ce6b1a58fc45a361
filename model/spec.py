"""Model descriptions: one frozen record per model, and a table of named models.

All other numbers (tokens per latent frame, cache bytes per token, pictures per chunk) are derived here, so that no fact
about a model is written down elsewhere. This module imports no torch, because the front reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cache.config import POSED, PositionMode
from cache.errors import PolicyError
from model.camera import PANS, CameraLimits

MOST_PIXELS = 4096  # per side
BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)


class SpecError(ValueError):
    """A model description contradicts itself; the message names the field and the value."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Public weights: a Hugging Face repository and the files in it that a server needs.

    ``base`` is the repository with the text encoder and the VAE, if ``repo`` has only the transformer.
    """

    repo: str
    files: tuple[str, ...]
    base: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model of the Wan2.1 family with its VAE's geometry and its few-step schedule.

    Picture sizes are in pixels, positions in tokens, times in diffusion timesteps (0 clean ... 1000 noise).
    """

    name: str
    # transformer
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    latent_channels: int
    patch: tuple[int, int, int]
    freq_dim: int
    text_dim: int
    text_len: int
    eps: float
    rope_theta: float
    recache_chunks: int  # at most this many of the newest chunks are rewritten when the prompt changes
    redraws: bool  # redraw the view when a prompt names a new thing; needs the built-in world's grammar
    # camera values per latent frame (model.stream.camera_path) that enter the time embedding; 0 in Wan
    control_dim: int
    predicts: str  # the head's output: "velocity" as in Wan, or "clean" latents, which small widths learn faster
    screen_embedding: bool  # a learned vector per screen position; Wan has none
    camera: CameraLimits | None  # if set, token positions are world positions: column and row + the camera's position
    # pictures
    width: int
    height: int
    fps: int
    spatial_stride: int
    temporal_stride: int
    first_latent_pictures: int  # pictures that the stream's first latent frame decodes to: 1 in Wan's VAE
    detail: int = 1  # picture pixels per camera pixel, each way: a codec can draw the same latents larger
    details: tuple[int, ...] = (1,)  # those that the codec has decoders for
    # streaming
    chunk_latents: int
    denoising_steps: tuple[int, ...]  # as listed in the checkpoint's configuration
    shift: float
    trained_latents: int  # temporal positions seen in training; relative positions stay inside them
    max_prompt_chars: int
    first_steps: tuple[int, ...] = ()  # steps of the first chunk, if different: one- and two-step students take more
    warped: bool = True  # whether the steps are indices that the shift warps, or timesteps already
    # the parts beside the transformer, by name (model.parts)
    text_encoder: str = "phrases"
    video_codec: str = "views"
    codec_memory: int = 0  # values per latent position that the codec keeps for a session; 0: negligible
    # cache defaults; the policy is the one that the weights were tuned with
    cache_policy: str = "sink_window"
    cache_budget_latents: float = 18.0  # without the open chunk, which public configurations count as well
    cache_sink_latents: float | None = None  # None: the policy's default
    position_mode: PositionMode = "relative"
    public: bool = False  # whether its weights come in the public layouts of the Wan2.1 family
    source: Source | None = None  # where to download them

    def __post_init__(self) -> None:
        self._require(self.dim % self.num_heads == 0, "dim", f"{self.dim} is not a multiple of {self.num_heads} heads")
        self._require(self.head_dim % 2 == 0, "head_dim", f"{self.head_dim} is odd, rotary pairs need an even size")
        stride_h, stride_w = self.spatial_stride * self.patch[1], self.spatial_stride * self.patch[2]
        for field, size, stride in (("height", self.height, stride_h), ("width", self.width, stride_w)):
            below = size // stride * stride
            nearest = " or ".join(str(each) for each in (below, below + stride) if each)
            fits = size > 0 and size % stride == 0
            self._require(fits, field, f"{size} is not a multiple of {stride} (VAE and patch); nearest are {nearest}")
        self._require(self.predicts in ("velocity", "clean"), "predicts", f"{self.predicts!r} is not velocity or clean")
        self._require(self.patch[0] == 1, "patch", f"{self.patch} spans several latent frames")
        self._require(self.trained_latents >= 2 * self.chunk_latents, "trained_latents", "is shorter than two chunks")
        for field, steps in (("denoising_steps", self.denoising_steps), ("first_steps", self.first_steps)):
            falling = list(steps) == sorted(set(steps), reverse=True) and all(0 < step <= 1000 for step in steps)
            self._require(falling, field, f"{steps} must fall strictly inside (0, 1000]")
        self._require(bool(self.denoising_steps), "denoising_steps", "names no step")

    def _require(self, holds: bool, field: str, reason: str) -> None:
        if not holds:
            raise SpecError(f"model {self.name!r}: {field}: {reason}")

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.dim // self.num_heads

    @property
    def rope_split(self) -> tuple[int, int, int]:
        """Channels per head for (time, height, width); as in Wan, time gets the remainder."""
        side = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * side, side, side

    @property
    def latent_height(self) -> int:
        """Rows of a latent frame."""
        return self.height // self.spatial_stride

    @property
    def latent_width(self) -> int:
        """Columns of a latent frame."""
        return self.width // self.spatial_stride

    @property
    def token_rows(self) -> int:
        """Token rows of a latent frame."""
        return self.latent_height // self.patch[1]

    @property
    def token_columns(self) -> int:
        """Token columns of a latent frame."""
        return self.latent_width // self.patch[2]

    @property
    def tokens_per_latent(self) -> int:
        """Tokens of a latent frame."""
        return self.token_rows * self.token_columns

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens of a chunk."""
        return self.tokens_per_latent * self.chunk_latents

    @property
    def view_width(self) -> int:
        """Camera pixels of a screen: the picture's width, unless the codec draws in more detail."""
        return self.width // self.detail

    @property
    def view_height(self) -> int:
        """Camera pixels of a screen, from top to bottom."""
        return self.height // self.detail

    @property
    def pixels_per_column(self) -> int:
        """Camera pixels per token column; camera offsets are divided by it."""
        return self.view_width // self.token_columns

    @property
    def pixels_per_row(self) -> int:
        """Camera pixels per token row."""
        return self.view_height // self.token_rows

    def pictures_in_chunk(self, index: int) -> int:
        """Pictures that chunk ``index`` (from 0) decodes to."""
        pictures = self.chunk_latents * self.temporal_stride
        return pictures if index else pictures - self.temporal_stride + self.first_latent_pictures

    def codec_bytes(self, dtype: str) -> int:
        """Bytes that the codec keeps for a session between two chunks."""
        return self.codec_memory * self.latent_height * self.latent_width * BYTES_PER_ELEMENT[dtype]

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The denoising timesteps of all chunks but the first: (1000, 937.5, 833.3, 625) for Self-Forcing's list at
        shift 5."""
        return tuple(timestep for timestep, _ in self.schedule(1))

    def schedule(self, chunk: int) -> tuple[tuple[float, float], ...]:
        """(timestep, noise level in (0, 1]) of every denoising pass of chunk ``chunk`` (from 0)."""
        steps = self.first_steps if self.first_steps and chunk == 0 else self.denoising_steps
        if self.warped:
            return tuple((1000 * sigma, sigma) for sigma in (self._warp(step / 1000) for step in steps))
        return tuple((float(step), self._nearest_sigma(step)) for step in steps)

    def _warp(self, sigma: float) -> float:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def _nearest_sigma(self, timestep: float) -> float:
        """The nearest of the public schedulers' 1000 noise levels."""
        return min((self._warp(1 - k / 1000) for k in range(1000)), key=lambda s: abs(1000 * s - timestep))

    def check_policy(self, policy: str) -> None:
        """Raise PolicyError for a cache policy that chooses by the camera's view if this model has no camera."""
        if policy in POSED and self.camera is None:
            raise PolicyError(
                f"policy {policy!r} chooses by what the camera sees, and model {self.name!r} has no camera: "
                "choose another policy, for example 'value_novelty'"
            )

    def why_not_shared(self, devices: int) -> str | None:
        """Why a group of so many devices cannot share this model (cache.group), or None if it can."""
        counts = {"attention heads": self.num_heads, "tokens per latent frame": self.tokens_per_latent}
        for what, count in counts.items():
            if count % devices:
                fitting = [n for n in range(2, count + 1) if not any(each % n for each in counts.values())]
                could = f"groups of {' or '.join(map(str, fitting))} can" if fitting else "no group can"
                size = f"at {self.width}x{self.height} "
                return f"model {self.name!r} {size}has {count} {what}, which {devices} devices cannot share; {could}"
        return None

    def at(self, width: int, height: int) -> ModelSpec:
        """This model with another picture size. Raises SpecError, which names valid sizes."""
        for detail, size in zip(self.details, self.sizes, strict=True):
            if size == (width, height):
                stride = self.spatial_stride // self.detail * detail
                return replace(self, width=width, height=height, spatial_stride=stride, detail=detail)
        offered = " or ".join(f"{wide}x{high}" for wide, high in self.sizes)
        self._require(not self.screen_embedding, "size", f"{width}x{height} is not offered; it draws {offered}")
        return replace(self, width=width, height=height)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Picture sizes that the codec has decoders for; a model without a vector per screen position draws others
        too."""
        return tuple((detail * self.view_width, detail * self.view_height) for detail in self.details)


def size_of(text: str) -> tuple[int, int]:
    """Width and height of a size like "832x480". Raises SpecError."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise SpecError(f"size is {text!r}; give WIDTHxHEIGHT like 832x480")
    width, height = int(found[1]), int(found[2])
    if not all(0 < side <= MOST_PIXELS for side in (width, height)):
        raise SpecError(f"size is {text!r}: each side must have 1 to {MOST_PIXELS} pixels")
    return width, height


WAN_BASE = "Wan-AI/Wan2.1-T2V-1.3B"  # its text encoder and VAE serve the whole family
WAN_PARTS = ("models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*", "Wan2.1_VAE.pth")

WAN_1_3B = ModelSpec(
    name="wan2.1-1.3b",
    dim=1536,
    ffn_dim=8960,
    num_heads=12,
    num_layers=30,
    latent_channels=16,
    patch=(1, 2, 2),
    freq_dim=256,
    text_dim=4096,
    text_len=512,
    eps=1e-6,
    rope_theta=10000.0,
    recache_chunks=4,  # 12 latent frames, as LongLive
    redraws=False,
    control_dim=0,
    predicts="velocity",
    screen_embedding=False,
    camera=None,
    width=832,
    height=480,
    fps=16,
    spatial_stride=8,
    temporal_stride=4,
    first_latent_pictures=1,
    chunk_latents=3,
    denoising_steps=(1000, 750, 500, 250),
    shift=5.0,
    trained_latents=21,
    max_prompt_chars=2000,
    text_encoder="umt5-xxl",
    video_codec="wan2.1",
    codec_memory=151_328,
    public=True,
    source=Source(repo=WAN_BASE, files=("diffusion_pytorch_model*", *WAN_PARTS)),
)

WAN_14B = replace(
    WAN_1_3B,
    name="wan2.1-14b",
    dim=5120,
    ffn_dim=13824,
    num_heads=40,
    num_layers=40,
    source=Source(repo="Wan-AI/Wan2.1-T2V-14B", files=("diffusion_pytorch_model*", *WAN_PARTS)),
)

# What differs between public checkpoints of this family. Self-Forcing's configuration is the base: 4 warped steps at
# shift 5, chunks of 3 latent frames, a window of 21 (18 of them past), no sink (others found that it harms).
SELF_FORCING = replace(
    WAN_1_3B,
    name="self-forcing",
    cache_policy="window",
    source=Source(repo="gdhe17/Self-Forcing", files=("checkpoints/self_forcing_dmd.pt",), base=WAN_BASE),
)
SELF_FORCING_SID = replace(
    SELF_FORCING,
    name="self-forcing-sid",
    source=Source(repo="gdhe17/Self-Forcing", files=("checkpoints/self_forcing_sid.pt",), base=WAN_BASE),
)
CAUSVID = replace(
    WAN_1_3B,
    name="causvid",
    cache_policy="window",
    denoising_steps=(1000, 757, 522),  # its list ends in 0, which is the clean pass
    warped=False,
    shift=8.0,
    source=Source(repo="tianweiy/CausVid", files=("autoregressive_checkpoint/model.pt",), base=WAN_BASE),
)
LONGLIVE = replace(
    WAN_1_3B,
    name="longlive",
    cache_budget_latents=9.0,  # a window of 12 that includes the open chunk
    cache_sink_latents=3.0,
    position_mode="absolute",
    source=Source(
        repo="Efficient-Large-Model/LongLive-1.3B", files=("models/longlive_base.pt", "models/lora.pt"), base=WAN_BASE
    ),
)
KREA_14B = replace(
    WAN_14B,
    name="krea-14b",
    denoising_steps=(1000, 937, 833, 625),
    warped=False,
    cache_budget_latents=3.0,
    source=Source(repo="krea/krea-realtime-video", files=("krea-realtime-video-14b.safetensors",), base=WAN_BASE),
)
# Frame-wise students of Causal Forcing: one latent frame per chunk. With few steps, the first chunk still takes four.
FRAME_WISE = replace(
    WAN_1_3B,
    name="frame-wise-4-step",
    cache_policy="window",
    chunk_latents=1,
    recache_chunks=12,
    cache_budget_latents=20.0,
    source=Source(repo="zhuhz22/Causal-Forcing", files=("framewise/causal_forcing.pt",), base=WAN_BASE),
)
FRAME_WISE_2 = replace(
    FRAME_WISE,
    name="frame-wise-2-step",
    denoising_steps=(1000, 500),
    first_steps=FRAME_WISE.denoising_steps,
    source=Source(repo="zhuhz22/Causal-Forcing", files=("causal-forcing++/framewise-2step.pt",), base=WAN_BASE),
)
FRAME_WISE_1 = replace(
    FRAME_WISE_2,
    name="frame-wise-1-step",
    denoising_steps=(1000,),
    source=Source(repo="zhuhz22/Causal-Forcing", files=("causal-forcing++/framewise-1step.pt",), base=WAN_BASE),
)

PAFU_MINI = ModelSpec(
    name="pafu-mini",
    dim=192,
    ffn_dim=768,
    num_heads=4,
    num_layers=6,
    latent_channels=24,
    patch=(1, 2, 2),
    freq_dim=64,
    text_dim=128,
    text_len=8,
    eps=1e-6,
    rope_theta=10000.0,
    recache_chunks=0,  # measured: neither helps nor harms (docs/method.md)
    redraws=True,
    control_dim=1,
    predicts="clean",
    screen_embedding=True,
    camera=PANS,
    width=256,
    height=128,
    fps=16,
    spatial_stride=16,
    temporal_stride=4,
    first_latent_pictures=4,
    details=(1, 2),
    chunk_latents=3,
    denoising_steps=(1000, 750, 450, 150),
    shift=5.0,
    trained_latents=24,
    max_prompt_chars=2000,
    cache_policy="salient_retrieval",
    cache_budget_latents=6.0,
    cache_sink_latents=2.0,  # else the place where a stream began is lost in minutes (docs/method.md)
)

TEST_TINY = ModelSpec(
    **{
        **PAFU_MINI.__dict__,
        "name": "test-tiny",
        "cache_policy": "sink_window",
        "cache_sink_latents": None,
        "cache_budget_latents": 18.0,
        "dim": 48,
        "ffn_dim": 96,
        "num_heads": 2,
        "num_layers": 2,
        "freq_dim": 16,
        "text_dim": 32,
        "width": 128,
        "height": 128,
        "details": (1,),
    }
)

TEST_TINY_WAN = replace(  # a transformer of Wan's kind with parts that import nothing heavy; served under no name
    TEST_TINY,
    name="tiny-wan",
    dim=80,  # heads of 20 channels, which divide unevenly over the three axes: 8, 6, 6
    ffn_dim=160,
    num_heads=4,
    num_layers=3,
    freq_dim=64,
    control_dim=0,
    predicts="velocity",
    screen_embedding=False,
    camera=None,
    width=96,
    height=64,
)

PAFU_MINI_2 = replace(
    PAFU_MINI,
    name="pafu-mini-2",
    text_encoder="phrases-2",
    video_codec="planes",
    dim=320,
    ffn_dim=1280,
    num_heads=5,
    num_layers=8,
    patch=(1, 2, 4),  # 32 x 64 pixels per token: 64 tokens per latent frame
    text_dim=192,
    text_len=12,
    control_dim=4,
    details=(1,),
    camera=CameraLimits(full_speed=32, acceleration=16, lowest=-48, highest=40),
    width=512,
    height=256,
    # after warping .975, .880 and .550: light and ground, on which all else depends, are settled at nearly full noise
    denoising_steps=(1000, 886, 595, 196),
)

TEST_WAN = replace(  # Wan's shape, small enough for every test; random weights
    WAN_1_3B,
    name="test-wan",
    dim=80,
    ffn_dim=160,
    num_heads=4,
    num_layers=3,
    freq_dim=64,
    text_dim=32,
    text_len=64,
    width=96,
    height=64,
    text_encoder="umt5-tiny",
    video_codec="wan2.1-tiny",
    codec_memory=6_336,
    cache_budget_latents=6.0,
    source=None,
)

WAN_FAMILY = (
    WAN_1_3B,
    WAN_14B,
    SELF_FORCING,
    SELF_FORCING_SID,
    CAUSVID,
    LONGLIVE,
    KREA_14B,
    FRAME_WISE,
    FRAME_WISE_2,
    FRAME_WISE_1,
)
RANDOM_WEIGHTS = ("test-tiny", "test-wan")  # no other weights exist; their pictures are meaningless
SPECS = {spec.name: spec for spec in (*WAN_FAMILY, PAFU_MINI, PAFU_MINI_2, TEST_TINY, TEST_WAN)}


def spec_named(name: str) -> ModelSpec:
    """The spec called ``name``. Raises SpecError, which lists the known names."""
    if name not in SPECS:
        raise SpecError(f"unknown model {name!r}; known models: {', '.join(SPECS)}")
    return SPECS[name]
