"""The server's settings, validated once and immutable.

Every field is a ``PAFU_*`` variable and a key of the configuration file; the most used are also flags of ``pafu
serve``. The front imports this module, so it does not import torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cache.config import HOST_LATENTS, CacheConfig, PositionMode, check_room
from cache.errors import PolicyError
from model.checkpoints import hub
from model.spec import SPECS, ModelSpec, size_of
from server.config import addresses, devices
from server.config.environment import PREFIX, ConfigError
from server.errors import nearest

MIN_SECRET = 16  # minimum characters of an API key
Names = Annotated[tuple[str, ...], NoDecode]  # comma-separated in variables
NAMES = ("allowed_hosts", "allowed_origins", "trusted_proxies", "api_keys", "public_paths")  # all fields of type Names
LONGEST = 1e9  # seconds; the limit for numbers with a fraction
LARGEST = 2**53  # limit for whole numbers, which JSON and databases can represent
CACHE = ("cache_policy", "cache_budget_latents", "cache_window_latents", "cache_sink_latents", "cache_recent_latents")


@contextmanager
def about(*fields: str) -> Iterator[None]:
    """Convert a ValueError in the block to a ConfigError about these settings."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error), *fields) from error


def default_data_dir() -> Path:
    """The user's state folder (XDG)."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "pafu"


class Group(BaseModel):
    """Settings on one topic, listed under ``heading`` in docs/settings.md."""

    heading: ClassVar[str]


class Server(Group):
    """Addresses, model, devices, logs and traces."""

    heading: ClassVar[str] = "The server"

    host: str = Field(default="127.0.0.1", description="address to listen on; API keys are required beyond loopback")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0: any free one")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="separate port for /metrics; default: the main port"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address to listen on for metrics_port")
    model: str = Field(default="pafu-mini", description="the model to serve")
    weights: str | None = Field(default=None, description="weights: folder or file of safetensors, or a hub id")
    text_encoder: str | None = Field(
        default=None, description="text encoder: folder, file or hub id; default: next to the weights"
    )
    vae: str | None = Field(
        default=None, description="VAE: folder, file or hub id, also of a tiny VAE; default: next to the weights"
    )
    text_placement: Literal["device", "offload", "cpu"] = Field(
        default="offload",
        description="where the text encoder runs: on the device, offloaded from it when not in use, or on the CPU",
    )
    size: str | None = Field(
        default=None,
        pattern=r"^\d{1,5}x\d{1,5}$",
        description="picture size, as 832x480; default: the model's own (pafu-mini: 512x256; 256x128 is less work)",
    )
    salience_head: Path | None = Field(default=None, description="salience head; default: the file next to the weights")
    engine: Literal["local", "ray"] = Field(
        default="local", description="where workers run: on this machine or on a Ray cluster (extra ray)"
    )
    ray_address: str = Field(
        default="auto", description="host:port of the Ray cluster; auto: the cluster that this machine belongs to"
    )
    ray_namespace: str = Field(
        default="pafu",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="letters, digits, . _ and -; servers in the same namespace share workers",
    )
    device: str = Field(default="auto", description=f"devices, with one worker each: {devices.ALLOWED}")
    threads: int = Field(
        default=0, ge=0, le=1024, description="torch threads, divided among all workers; 0: all usable cores"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest level to log")
    log_format: Literal["text", "json"] = Field(default="text", description="json: one object per line")
    access_log: bool = Field(default=False, description="log every HTTP request and socket")
    log_prompts: bool = Field(default=False, description="log prompts")
    traces: bool = Field(default=False, description="export OpenTelemetry traces; needs the extra otel")

    gallery: bool = Field(
        default=True,
        description="generate an animated thumbnail for each example prompt, once, while the server is idle",
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in SPECS:
            raise ValueError(f"unknown model; {nearest(value, list(SPECS))}")
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        devices.parse(value)
        return value

    @field_validator("size")
    @classmethod
    def _can_be_made(cls, value: str | None) -> str | None:
        if value is not None:
            size_of(value)
        return value

    @field_validator("weights", "text_encoder", "vae", mode="before")
    @classmethod
    def _path_or_id(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value


class Sessions(Group):
    """Limits and retention of live sessions."""

    heading: ClassVar[str] = "Sessions"

    max_sessions: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="limit on sessions on the devices at once, including jobs; default: as many as run in real time",
    )
    max_waiting: int = Field(default=8, ge=0, le=10_000, description="limit on viewers waiting for a place")
    queue_timeout: float = Field(
        default=120.0, gt=0, description="longest wait for a place, after which the viewer is rejected"
    )
    cache_room_bytes: int = Field(
        default=0, ge=0, description="memory for the caches of all sessions; 0: the free memory"
    )
    keep_on_device: float = Field(default=20.0, ge=0, description="how long an idle session stays on the device")
    keep_on_disk: float = Field(
        default=600.0, ge=0, description="how long it is then kept on disk; both 0: a session ends with its viewer"
    )
    max_kept: int = Field(
        default=100, ge=0, description="limit on sessions without a viewer per caller; above it, the oldest ends"
    )
    lead_seconds: float = Field(default=1.25, gt=0, le=60, description="media generated ahead of a viewer's playhead")
    max_lead_seconds: float = Field(default=10.0, gt=0, le=86_400, description="largest lead that a viewer may request")
    max_seconds: float = Field(default=86_400, gt=0, description="longest video of a session")


class Storage(Group):
    """Storage and video jobs."""

    heading: ClassVar[str] = "Jobs and storage"

    data_dir: Path = Field(
        default_factory=default_data_dir, description="folder for jobs, sessions and other persistent data"
    )
    database: str | None = Field(
        default=None,
        description="job database: postgresql://... or sqlite:////path; default: jobs.sqlite in the data folder",
    )
    sessions: str | None = Field(
        default=None,
        description="session journals shared by several servers: a folder or an fsspec URL; default: not shared",
    )
    videos: str | None = Field(
        default=None,
        description="video files: a folder or an fsspec URL (s3://bucket/videos); default: in the data folder",
    )
    jobs_at_once: int | None = Field(
        default=None, ge=0, le=1000, description="jobs that this server runs at once; default: one per worker; 0: none"
    )
    max_queued_jobs: int = Field(default=100, ge=0, description="limit on unfinished jobs of all callers")
    max_job_seconds: float = Field(default=600.0, gt=0, description="longest video of a job")
    job_lease_seconds: float = Field(
        default=15.0, ge=0.5, description="without a heartbeat for this long, other servers take over a server's jobs"
    )
    job_max_failures: int = Field(
        default=10,
        ge=1,
        description="a job fails after this many failures in a row without a finished chunk in between",
    )
    job_keep_seconds: float = Field(default=7 * 86_400.0, gt=0, description="how long finished videos are kept")
    job_keep_bytes: int = Field(
        default=20 * 2**30, ge=0, description="limit on the size of finished videos; above it, the oldest are deleted"
    )


class Caches(Group):
    """Key/value caches of sessions."""

    heading: ClassVar[str] = "Caches"

    cache_policy: str | None = Field(
        default=None,
        description="cache policy of sessions that choose none; default: the model's own",
    )
    cache_budget_latents: float | None = Field(
        default=None, gt=0, description="cache budget in latent frames; default: the model's own"
    )
    cache_window_latents: float | None = Field(
        default=None,
        gt=0,
        description="instead of the budget: latent frames with the current chunk, as in public configurations",
    )
    cache_position_mode: PositionMode | None = Field(
        default=None, description="time positions of cached tokens; default: the model's own"
    )
    cache_sink_latents: float | None = Field(
        default=None,
        ge=0,
        description="sink in latent frames; default: the model's; else for sink_window a quarter of the budget, at "
        "most a chunk, else 0",
    )
    cache_recent_latents: float | None = Field(
        default=None,
        ge=0,
        description="recent window in latent frames; default: a quarter of the budget, at most a chunk",
    )
    kv_dtype: Literal["auto", "bf16", "int8", "int4"] = Field(
        default="auto", description="storage type of cached tokens; auto: the model's own type"
    )
    cache_host_latents: float = Field(
        default=HOST_LATENTS,
        gt=0,
        description="evicted latent frames that a session's host memory holds, for policies that recall",
    )
    cache_max_latents: float = Field(
        default=256.0, gt=0, description="largest cache budget, in latent frames, that a viewer may request"
    )


class Limits(Group):
    """Timeouts, and limits on requests and callers."""

    heading: ClassVar[str] = "Timeouts and limits on input"

    start_timeout: float = Field(default=10.0, gt=0, description="time limit for session.start after connecting")
    ready_wait: float = Field(default=20.0, ge=0, description="how long a new session waits for a starting worker")
    stall_timeout: float = Field(
        default=60.0, gt=0, description="a viewer who reads nothing for this long is disconnected"
    )
    load_timeout: float = Field(default=600.0, ge=5, description="time limit for a worker to load its model")
    worker_timeout: float = Field(
        default=60.0, ge=2, description="a worker without a heartbeat for this long is replaced"
    )
    shutdown_timeout: float = Field(
        default=10.0, gt=0, description="time limit for finishing current chunks after SIGTERM"
    )
    max_start_bytes: int = Field(
        default=4 * 2**20, ge=1024, description="largest picture in the first message of a connection"
    )
    max_control_bytes: int = Field(
        default=64 * 2**10, ge=1024, le=2**20, description="largest later message of a connection"
    )
    max_pending_interactions: int = Field(default=64, ge=1, description="limit on a session's pending changes")
    max_bad_messages: int = Field(default=20, ge=0, description="invalid messages that a connection survives")
    allowed_hosts: Names = Field(default=(), description="host names allowed in addition to localhost and IP addresses")
    allowed_origins: Names = Field(
        default=(), description="page origins allowed in addition to the server's own and loopback"
    )
    trusted_proxies: Names = Field(
        default=(), description="addresses and networks whose X-Forwarded-Host, -Port, -Proto and -Prefix are trusted"
    )
    base_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$",
        description="sub-path that a proxy does not remove from requests, as /pafu",
    )
    max_connections_per_address: int = Field(
        default=256, ge=1, description="limit on open connections per address; trusted proxies are exempt"
    )
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024, description="largest HTTP request body")
    body_timeout: float = Field(default=30.0, gt=0, description="time limit for receiving a request body")
    messages_per_second: float = Field(
        default=100.0, gt=0, description="message rate per viewer; faster messages are read more slowly"
    )

    @field_validator("allowed_hosts", "allowed_origins", "trusted_proxies")
    @classmethod
    def _can_match(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check = {"allowed_hosts": addresses.host, "allowed_origins": addresses.origin}
        return tuple(str(check.get(info.field_name or "", addresses.network)(part)) for part in value)


class Keys(Group):
    """API keys and access."""

    heading: ClassVar[str] = "Keys"

    api_keys: Names = Field(default=(), description="API keys, plain or sha256:<hex>; stored as hashes")
    keys_file: Path | None = Field(default=None, description="TOML file of hashed API keys, see pafu keys")
    max_sessions_per_key: int | None = Field(
        default=None, ge=0, description="limit on sessions, for keys without their own limit"
    )
    max_jobs_per_key: int | None = Field(
        default=None, ge=0, description="limit on unfinished jobs, for keys without their own limit"
    )
    requests_per_minute_per_key: int | None = Field(
        default=None, ge=1, description="request rate, for keys without their own limit"
    )
    ticket_seconds: float = Field(default=60.0, gt=0, le=3600, description="lifetime of a browser's unused ticket")
    public_paths: Names = Field(
        default=(), description="paths that need no key, in addition to the page, /healthz and /readyz"
    )
    allow_anonymous: bool = Field(default=False, description="allow listening beyond loopback without keys")

    @field_validator("public_paths")
    @classmethod
    def _paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(addresses.path(part) for part in value)

    @field_validator("api_keys")
    @classmethod
    def _hashed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_hash_of_key(key) for key in value)


GROUPS: tuple[type[Group], ...] = (Server, Sessions, Storage, Caches, Limits, Keys)


class Settings(Keys, Limits, Caches, Storage, Sessions, Server, BaseSettings):
    """All settings of a server. Times are in seconds, sizes in bytes.

    The bases are in reverse order, because pydantic puts the fields of the last base first.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, allow_inf_nan=False
    )

    _called: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator(*NAMES, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, re.split(r"[,\n]", value)))) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _reject_wrong_types(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans, which would become 1 and 0, and empty strings, which would be the current folder as a
        path."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false are not allowed here")
        if value == "" and field.default != "" and info.field_name not in NAMES:
            raise ValueError("it is empty; omit it")
        return value

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        most = LARGEST if isinstance(value, int) else LONGEST
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"the maximum is {most:g}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        with about("size", "model"):
            spec = self.spec
        with about(*CACHE):
            if self.cache_budget_latents not in (None, self._usual_budget(spec)):
                raise ValueError("they conflict: set only one of them")
            self.check_budget(self.cache().budget_latents, spec)
        if self.lead_seconds > self.max_lead_seconds:
            raise ConfigError(
                f"lead_seconds is larger than max_lead_seconds ({self.max_lead_seconds:g})",
                "lead_seconds",
                "max_lead_seconds",
            )
        if self.metrics_port and self.metrics_port == self.port:
            raise ConfigError(
                f"metrics_port is the main port ({self.port}): choose another, or omit it to serve /metrics there",
                "metrics_port",
            )
        if self.metrics_port is None and "metrics_host" in self.model_fields_set:
            raise ConfigError("it has no effect without metrics_port", "metrics_host")
        return self

    @classmethod
    def under_names(cls, called: Mapping[str, str], **given: Any) -> Settings:
        """Settings whose errors use the user's names; ``called`` maps fields set by flag or file to those names."""
        settings = cls(**given)
        settings._called.update(called)
        return settings

    def called(self, *fields: str) -> str:
        """The names under which ``fields`` were set by the user; empty if none was set."""
        return names_of([field for field in fields if field in self.model_fields_set], self._called)

    @property
    def names(self) -> dict[str, str]:
        """Field -> the user's name, for all fields that were set."""
        return {field: self.called(field) for field in sorted(self.model_fields_set)}

    def explained(self, error: Exception) -> str:
        """The error message, prefixed with the settings at fault."""
        called = self.called(*error.fields) if isinstance(error, ConfigError) else ""
        return f"{called}: {error}" if called else str(error)

    @property
    def spec(self) -> ModelSpec:
        """The model's spec at the configured size, or at the largest of its own. Raises SpecError if VAE or patches do
        not divide the size."""
        spec = SPECS[self.model]
        return spec.at(*(spec.sizes[-1] if self.size is None else size_of(self.size)))

    @property
    def weights_place(self) -> str | None:
        """``weights`` for the worker: an absolute path, or the hub id."""
        return place_of(self.weights)

    def check_budget(self, latents: float, spec: ModelSpec) -> None:
        """Raises PolicyError for a cache budget outside the server's limits."""
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
        """A session's cache: from its request, else from the settings, else from the model. Raises PolicyError.

        The settings' sink applies only to the settings' policy.
        """
        spec = self.spec
        usual = self.cache_policy or spec.cache_policy
        if budget is None:
            budget = self._usual_budget(spec)
        check_room(policy or usual, budget, 0, 0, "latent frames")  # also checks that sessions may use the policy
        spec.check_policy(policy or usual)
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
            host=self.cache_host_latents,
        )

    def _usual_budget(self, spec: ModelSpec) -> float:
        if self.cache_window_latents is not None:
            return budget_of_window(self.cache_window_latents, spec)
        return self.cache_budget_latents or spec.cache_budget_latents


def names_of(fields: Iterable[str], called: Mapping[str, str]) -> str:
    """The user's names of these settings: a flag or a file entry, else the variable."""
    return " and ".join(called.get(field, PREFIX + field.upper()) for field in fields)


def place_of(name: str | None) -> str | None:
    """An absolute path, for workers in another folder; hub ids are unchanged."""
    return name if name is None or hub.is_hub_id(name) else str(Path(name).resolve())


def budget_of_window(window: float, spec: ModelSpec) -> float:
    """The budget for a window that includes the chunk being generated. Raises PolicyError."""
    if window <= spec.chunk_latents:
        raise PolicyError(
            f"a window of {window:g} latent frames has no room for a past: it includes the current chunk of "
            f"{spec.chunk_latents}; choose more than {spec.chunk_latents}"
        )
    return window - spec.chunk_latents


def _hash_of_key(key: str) -> str:
    """``sha256:<hex>`` of a key; settings hold only hashes, so printing them reveals no secret."""
    if re.fullmatch(r"sha256:[0-9a-f]{64}", key):
        return key
    if len(key) < MIN_SECRET or not key.isascii() or not key.isprintable() or key.startswith("sha256:"):
        raise ValueError(f"an API key needs at least {MIN_SECRET} ASCII characters, or sha256: and 64 hex digits")
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
