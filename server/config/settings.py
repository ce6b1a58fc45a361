"""The server's settings: every field is a ``PAFU_*`` variable and a key of the configuration file, those that are
changed most also a flag of ``pafu serve``; frozen and checked once.

This module is read by the front process and imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cache.config import CacheConfig, PositionMode, check_room
from cache.errors import PolicyError
from model.checkpoints import hub
from model.spec import SPECS, ModelSpec
from server.config import addresses, devices
from server.config.environment import PREFIX, ConfigError
from server.errors import nearest

MIN_SECRET = 16  # characters
Names = Annotated[tuple[str, ...], NoDecode]  # comma-separated in the environment
NAMES = ("allowed_hosts", "allowed_origins", "trusted_proxies", "api_keys", "public_paths")  # the fields of that kind
LONGEST = 1e9  # seconds, 31 years
LARGEST = 2**53  # of whole numbers: what JSON and every database carry
MOST_PIXELS = 4096  # of a side
CACHE = ("cache_policy", "cache_budget_latents", "cache_window_latents", "cache_sink_latents", "cache_recent_latents")


@contextmanager
def about(*fields: str) -> Iterator[None]:
    """What is found wrong in this block is the fault of these settings. Raises ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error), *fields) from error


def default_data_dir() -> Path:
    """Where the user's programs keep their state."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "pafu"


class Settings(BaseSettings):
    """What an operator can choose. Times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, allow_inf_nan=False
    )

    _called: dict[str, str] = PrivateAttr(default_factory=dict)

    host: str = Field(default="127.0.0.1", description="address to listen on; beyond loopback it wants keys")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0: any free one")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="a port for /metrics alone; default: on the port of everything else"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of that port")
    model: str = Field(default="pafu-mini", description="which model is served")
    weights: str | None = Field(default=None, description="folder or file of safetensors, or an id of the hub")
    text_encoder: str | None = Field(default=None, description="folder or file, or an id; default: beside the weights")
    vae: str | None = Field(default=None, description="the same for the VAE, or for a tiny one in TAEHV's layout")
    text_placement: Literal["device", "offload", "cpu"] = Field(
        default="offload",
        description="where the text encoder is: on the device, there only while it encodes, or on the CPU",
    )
    size: str | None = Field(
        default=None,
        pattern=r"^\d{1,5}x\d{1,5}$",
        description="size of the pictures, 832x480; default: the model's own",
    )
    salience_head: Path | None = Field(default=None, description="salience head; default: the one beside the weights")
    engine: Literal["local", "ray"] = Field(
        default="local", description="where workers live: here, or on the machines of a Ray cluster (extra ray)"
    )
    ray_address: str = Field(default="auto", description="host:port of the cluster; auto: the one of this machine")
    ray_namespace: str = Field(
        default="pafu",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="letters, digits, . _ and -; servers of one share workers",
    )
    device: str = Field(default="auto", description=f"one worker each: {devices.ALLOWED}")
    threads: int = Field(default=0, ge=0, le=1024, description="torch threads of all workers; 0: all usable cores")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="json: one object a line")
    access_log: bool = Field(default=False, description="a line for each HTTP request")
    log_prompts: bool = Field(default=False, description="write prompts to the log")
    traces: bool = Field(default=False, description="OpenTelemetry traces; needs the extra otel")

    gallery: bool = Field(
        default=True, description="paint a moving thumbnail of each starting point, once, while nobody watches"
    )

    max_sessions: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="sessions on the device at once, jobs included; default: as many as it can play in real time",
    )
    max_waiting: int = Field(default=8, ge=0, le=10_000, description="viewers that may wait for a place")
    queue_timeout: float = Field(
        default=120.0, gt=0, description="longest wait for a place; then the viewer is refused"
    )
    cache_room_bytes: int = Field(default=0, ge=0, description="memory for the caches of all sessions; 0: what is free")
    keep_on_device: float = Field(
        default=20.0, ge=0, description="how long a session without a viewer stays on the device"
    )
    keep_on_disk: float = Field(
        default=600.0, ge=0, description="how long it then stays on disk; 0 for both: it ends with its viewer"
    )
    max_kept: int = Field(
        default=100, ge=0, description="most sessions without a viewer of one caller; beyond it the oldest ends"
    )
    lead_seconds: float = Field(default=1.25, gt=0, le=60, description="media generated ahead of a viewer's playhead")
    max_lead_seconds: float = Field(default=10.0, gt=0, le=86_400, description="most that a viewer may ask for")
    max_seconds: float = Field(default=86_400, gt=0, description="longest video of one session")

    data_dir: Path = Field(default_factory=default_data_dir, description="folder for what survives the server")
    database: str | None = Field(
        default=None, description="jobs: postgresql://... or sqlite:////path; default: jobs.sqlite in the data folder"
    )
    sessions: str | None = Field(
        default=None,
        description="live sessions, where several servers go on with them: a folder or an fsspec URL; default: here",
    )
    videos: str | None = Field(
        default=None,
        description="finished videos: a folder or an fsspec URL (s3://bucket/videos); default: data folder",
    )
    jobs_at_once: int | None = Field(
        default=None, ge=0, le=1000, description="jobs that this server works on; default: one a worker; 0: none"
    )
    max_queued_jobs: int = Field(default=100, ge=0, description="most unfinished jobs of all callers")
    max_job_seconds: float = Field(default=600.0, gt=0, description="longest video of a job")
    job_lease_seconds: float = Field(
        default=15.0, ge=0.5, description="a server that is silent for so long loses its jobs to the others"
    )
    job_max_failures: int = Field(
        default=10,
        ge=1,
        description="a job that lost its worker so often in a row, without a chunk finished in between, fails",
    )
    job_keep_seconds: float = Field(default=7 * 86_400.0, gt=0, description="finished videos are kept for so long")
    job_keep_bytes: int = Field(
        default=20 * 2**30, ge=0, description="bytes of finished videos; beyond it the oldest are deleted"
    )

    cache_policy: str | None = Field(
        default=None, description="which tokens a session keeps that chooses no policy; default: the model's own"
    )
    cache_budget_latents: float | None = Field(
        default=None, gt=0, description="latent frames that a cache holds; default: the model's own"
    )
    cache_window_latents: float | None = Field(
        default=None,
        gt=0,
        description="instead of the budget: latent frames with the open chunk, as public configurations count",
    )
    cache_position_mode: PositionMode | None = Field(
        default=None, description="how cached tokens stand in time; default: the model's own"
    )
    cache_sink_latents: float | None = Field(
        default=None, ge=0, description="default: a quarter of the budget, at most a chunk, for sink_window; else 0"
    )
    cache_recent_latents: float | None = Field(
        default=None, ge=0, description="default: a quarter of the budget, at most a chunk"
    )
    kv_dtype: Literal["auto", "bf16", "int8", "int4"] = Field(
        default="auto", description="how caches keep tokens; auto: as the model computes"
    )
    cache_max_latents: float = Field(default=256.0, gt=0, description="largest cache budget that a viewer may ask for")

    start_timeout: float = Field(default=10.0, gt=0, description="session.start must come within this time")
    ready_wait: float = Field(default=20.0, ge=0, description="how long a session waits for a worker that is starting")
    stall_timeout: float = Field(default=60.0, gt=0, description="a viewer who takes nothing for so long is let go")
    load_timeout: float = Field(default=600.0, ge=5, description="a worker must have loaded its model within this time")
    worker_timeout: float = Field(default=60.0, ge=2, description="a worker silent for so long is replaced")
    shutdown_timeout: float = Field(default=10.0, gt=0, description="after SIGTERM chunks end within this time")
    max_start_bytes: int = Field(default=4 * 2**20, ge=1024, description="largest picture in a session's first message")
    max_control_bytes: int = Field(
        default=64 * 2**10, ge=1024, le=2**20, description="largest message of a running session"
    )
    max_pending_interactions: int = Field(default=64, ge=1, description="changes of one session not yet in force")
    max_bad_messages: int = Field(default=20, ge=0, description="faulty messages that a running session survives")
    allowed_hosts: Names = Field(default=(), description="host names besides localhost and IP addresses")
    allowed_origins: Names = Field(default=(), description="origins of pages besides the server's own and loopback")
    trusted_proxies: Names = Field(
        default=(), description="addresses and networks whose X-Forwarded-Host, -Port, -Proto and -Prefix are believed"
    )
    base_path: str = Field(
        default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="sub-path that a proxy leaves on requests, as /pafu"
    )
    max_connections_per_address: int = Field(
        default=256, ge=1, description="open connections of one address; trusted proxies may have more"
    )
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024, description="largest body of an HTTP request")
    body_timeout: float = Field(default=30.0, gt=0, description="a body must have arrived within this time")
    messages_per_second: float = Field(default=100.0, gt=0, description="of one viewer; more are read more slowly")

    api_keys: Names = Field(default=(), description="keys of callers, plain or sha256:<hex>; kept hashed")
    keys_file: Path | None = Field(default=None, description="TOML file of hashed keys, see pafu keys")
    max_sessions_per_key: int | None = Field(default=None, ge=0, description="for keys that have no limit of their own")
    max_jobs_per_key: int | None = Field(default=None, ge=0, description="unfinished jobs, for such keys too")
    requests_per_minute_per_key: int | None = Field(default=None, ge=1, description="for such keys too")
    ticket_seconds: float = Field(default=60.0, gt=0, le=3600, description="how long a browser's ticket may be used")
    public_paths: Names = Field(default=(), description="paths that need no key besides the page, /healthz, /readyz")
    allow_anonymous: bool = Field(default=False, description="listen beyond loopback without keys")

    @field_validator(*NAMES, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, re.split(r"[,\n]", value)))) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_stranger(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1; an empty path would be the current folder."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false mean nothing here")
        if value == "" and field.default != "" and info.field_name not in NAMES:
            raise ValueError("it is empty; leave it out")
        return value

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        most = LARGEST if isinstance(value, int) else LONGEST
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"the most is {most:g}")
        return value

    @field_validator("size")
    @classmethod
    def _can_be_made(cls, value: str | None) -> str | None:
        if value is not None and not all(0 < int(side) <= MOST_PIXELS for side in value.split("x")):
            raise ValueError(f"each side may have 1 to {MOST_PIXELS} pixels")
        return value

    @field_validator("allowed_hosts", "allowed_origins", "trusted_proxies", "public_paths")
    @classmethod
    def _can_match(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check = {"allowed_hosts": addresses.host, "allowed_origins": addresses.origin, "public_paths": addresses.path}
        return tuple(str(check.get(info.field_name or "", addresses.network)(part)) for part in value)

    @field_validator("weights", "text_encoder", "vae", mode="before")
    @classmethod
    def _path_or_id(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("api_keys")
    @classmethod
    def _hashed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_hash_of_key(key) for key in value)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        devices.parse(value)
        return value

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in SPECS:
            raise ValueError(f"unknown model; {nearest(value, list(SPECS))}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        with about("size", "model"):
            spec = self.spec
        with about(*CACHE):
            if self.cache_budget_latents not in (None, self._usual_budget(spec)):
                raise ValueError("they contradict each other: give one of them")
            self.check_budget(self.cache().budget_latents, spec)
        if self.lead_seconds > self.max_lead_seconds:
            raise ConfigError(
                f"lead_seconds is more than max_lead_seconds ({self.max_lead_seconds:g})",
                "lead_seconds",
                "max_lead_seconds",
            )
        if self.metrics_port and self.metrics_port == self.port:
            raise ConfigError(
                f"metrics_port is the port of everything else ({self.port}): choose another, or leave it out to have "
                "/metrics there",
                "metrics_port",
            )
        if self.metrics_port is None and "metrics_host" in self.model_fields_set:
            raise ConfigError("it means nothing without a metrics_port", "metrics_host")
        return self

    @classmethod
    def under_names(cls, called: Mapping[str, str], **given: Any) -> Settings:
        """Settings of which errors speak as the user does: ``called`` has the names of those that are no variable."""
        settings = cls(**given)
        settings._called.update(called)
        return settings

    def called(self, *fields: str) -> str:
        """The names under which those of ``fields`` that are set were set; empty when none is."""
        return names_of([field for field in fields if field in self.model_fields_set], self._called)

    @property
    def names(self) -> dict[str, str]:
        """What the user calls each setting that was set."""
        return {field: self.called(field) for field in sorted(self.model_fields_set)}

    def explained(self, error: Exception) -> str:
        """What is wrong, behind the names of the settings at fault."""
        called = self.called(*error.fields) if isinstance(error, ConfigError) else ""
        return f"{called}: {error}" if called else str(error)

    @property
    def spec(self) -> ModelSpec:
        """The model at the size that was chosen. Raises SpecError when its VAE or patches cannot divide that."""
        spec = SPECS[self.model]
        if self.size is None:
            return spec
        width, height = (int(side) for side in self.size.split("x"))
        return spec.at(width, height)

    @property
    def weights_place(self) -> str | None:
        """For the worker, which runs elsewhere: a whole path, or the id as it is."""
        return place_of(self.weights)

    def check_budget(self, latents: float, spec: ModelSpec) -> None:
        """Raises PolicyError for a cache budget that no session of this server may have."""
        least = 1 / spec.tokens_per_latent
        if not least <= latents <= self.cache_max_latents:
            raise PolicyError(
                f"a cache budget of {latents:g} latent frames is not allowed: choose {least:g} (one token) to "
                f"{self.cache_max_latents:g} latent frames, each of {spec.tokens_per_latent} tokens"
            )

    def cache(
        self,
        policy: str | None = None,
        budget: float | None = None,
        sink: float | None = None,
        recent: float | None = None,
        position_mode: PositionMode | None = None,
        kv_dtype: str | None = None,
    ) -> CacheConfig:
        """A session's cache: what it asks for, else what the settings say, else what the model was tuned with. A sink
        that the settings name is for the settings' policy. Raises PolicyError."""
        spec = self.spec
        usual = self.cache_policy or spec.cache_policy
        if budget is None:
            budget = self._usual_budget(spec)
        check_room(policy or usual, budget, 0, 0, "latent frames")  # it knows which policies are for sessions
        if sink is None and policy in (None, usual):
            sink = self.cache_sink_latents
        if sink is None and (policy or usual) == spec.cache_policy:
            sink = spec.cache_sink_latents if budget == spec.cache_budget_latents else None
        return CacheConfig.filled_in(
            policy or usual,
            budget,
            sink,
            self.cache_recent_latents if recent is None else recent,
            most=spec.chunk_latents,
            position_mode=position_mode or self.cache_position_mode or spec.position_mode,
            kv_dtype=kv_dtype or self.kv_dtype,
        )

    def _usual_budget(self, spec: ModelSpec) -> float:
        if self.cache_window_latents is not None:
            return budget_of_window(self.cache_window_latents, spec)
        return self.cache_budget_latents or spec.cache_budget_latents


def names_of(fields: Iterable[str], called: Mapping[str, str]) -> str:
    """What the user calls these settings: a flag or a line of a file, else a variable."""
    return " and ".join(called.get(field, PREFIX + field.upper()) for field in fields)


def place_of(name: str | None) -> str | None:
    """A whole path for a worker, which runs elsewhere; an id of the hub as it is."""
    return name if name is None or hub.is_hub_id(name) else str(Path(name).resolve())


def budget_of_window(window: float, spec: ModelSpec) -> float:
    """The budget of a window that counts the open chunk too, as public configurations do. Raises PolicyError."""
    if window <= spec.chunk_latents:
        raise PolicyError(
            f"a window of {window:g} latent frames has no room for a past: it counts the open chunk of "
            f"{spec.chunk_latents}; choose more than {spec.chunk_latents}"
        )
    return window - spec.chunk_latents


def _hash_of_key(key: str) -> str:
    """``sha256:<hex>`` of a plain key; settings never hold a secret, so nothing that prints them can tell it."""
    if re.fullmatch(r"sha256:[0-9a-f]{64}", key):
        return key
    if len(key) < MIN_SECRET or not key.isascii() or not key.isprintable() or key.startswith("sha256:"):
        raise ValueError(f"a key needs at least {MIN_SECRET} ASCII characters, or sha256: and 64 hex digits")
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
