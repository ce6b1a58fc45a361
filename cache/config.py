"""A session's cache configuration, and an upper bound on the bytes that it allocates.

This module imports no torch: the front uses it to validate requests and to admit sessions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

from cache.errors import PolicyError

PositionMode = Literal["relative", "absolute"]
RULES = (
    *("attention", "h2o", "tova", "recent_query", "trig", "keydiff", "density", "rkv", "redundancy"),
    *("value_novelty", "text_topk", "fov", "retrieval", "salient_retrieval", "merging", "pyramid"),
)
SERVED_POLICIES = ("full", "window", "sink_window", "random", *RULES, "salience", "pafu", "asked")
POLICY_NAMES = (*SERVED_POLICIES, "oracle")  # the oracle needs the future, so only evaluations offer it
HEADS_OF = {"salience": ("salience",), "pafu": ("salience",), "asked": ("salience", "asking")}  # of learned policies
RECALLING = frozenset({"retrieval", "salient_retrieval"})  # policies with a tier in host memory
SALIENT = frozenset({"salient_retrieval"})  # of these, what stands out decides what comes back
POSED = frozenset({"fov", *RECALLING})  # policies that choose by what the camera sees
PYRAMIDAL = frozenset({"pyramid"})  # policies with a budget per layer
PYRAMID_BETA = 20  # the first layer's share is this many times less than twice the mean, the last one's 1 / this
MERGING = frozenset({"merging"})  # policies that average stored rows
HOST_LATENTS = 96.0  # latent frames that this tier holds if nothing else is said
PROTECTED_SHARE = 0.25
WHOLE_SINKS_FROM = 1.5  # a budget in latent frames
FALLBACK_POLICY = "sink_window"  # used after a session's scores turned out not to be finite

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}
KV_DTYPES = ("auto", "bf16", "int8", "int4")  # auto: the model's own dtype
QUANTISED_BITS = {"int8": 8, "int4": 4}
GROUP = 64  # neighboring numbers of a row that share one scale
SCALE_BYTES = 2  # bfloat16
POSITION_BYTES = 3 * 4  # (t, h, w) float32
NUMBER_BYTES = 8  # int64
SCORE_BYTES = 4  # float32
ASKED_BYTES = 4  # float32
NEAREST = 8  # newer copies that a token remembers; see cache.copies
COPY_BYTES = NEAREST * (4 + 4)  # cosine float32, place int32
CACHE_SHARE = 0.7  # of the memory that a loaded model leaves free


def row_bytes(width: int, dtype: str, kv_dtype: str = "auto") -> int:
    """Bytes of one token's keys (or values) over all heads: ``width`` numbers, computed in ``dtype``. Whether such a
    model can store them so is for ``check_kv_dtype``: admission also counts before a worker has told its dtype."""
    check_kv_dtype("auto" if kv_dtype == "bf16" else kv_dtype, dtype)
    if kv_dtype == "bf16":
        return width * BYTES_PER_ELEMENT["bfloat16"]
    if bits := QUANTISED_BITS.get(kv_dtype):
        return -(-width // GROUP) * (GROUP * bits // 8 + SCALE_BYTES)
    return width * BYTES_PER_ELEMENT[dtype]


def check_kv_dtype(kv_dtype: str, dtype: str) -> None:
    """Raise PolicyError unless a model that computes in ``dtype`` can store its cache as ``kv_dtype``."""
    if dtype not in BYTES_PER_ELEMENT:
        raise PolicyError(f"unknown cache dtype {dtype!r}; known: {', '.join(BYTES_PER_ELEMENT)}")
    if kv_dtype not in KV_DTYPES:
        raise PolicyError(f"unknown kv_dtype {kv_dtype!r}; known: {', '.join(KV_DTYPES)}")
    if kv_dtype == "bf16" and dtype != "bfloat16":
        raise PolicyError(f"kv_dtype 'bf16' is for a model that computes in bfloat16, not in {dtype}: use 'auto'")


def check_merging(policy: str, kv_dtype: str) -> None:
    """Raise PolicyError if ``policy`` averages stored rows that ``kv_dtype`` would round again at every commit."""
    if policy in MERGING and kv_dtype in QUANTISED_BITS:
        raise PolicyError(
            f"policy {policy!r} averages stored keys and values, which kv_dtype {kv_dtype!r} would round again at "
            "every chunk: use 'auto'"
        )


def check_shared(kv_dtype: str, width: int, devices: int) -> None:
    """Raise PolicyError unless each of so many ``devices``, with ``width`` numbers of a key, can store its part as
    ``kv_dtype``."""
    if kv_dtype in QUANTISED_BITS and devices > 1 and width % GROUP:
        raise PolicyError(
            f"kv_dtype {kv_dtype!r} rounds {GROUP} neighboring numbers together, and each of {devices} devices has "
            f"{width} numbers of a key: use 'auto'"
        )


def promised_bytes(
    *,
    layers: int,
    heads: int,
    head_dim: int,
    budget: int,
    chunk: int,
    dtype: str,
    kv_dtype: str = "auto",
) -> int:
    """Bytes that a session's cache allocates, once, for its whole life: keys and values of ``budget`` tokens per layer
    with their scales, plus positions, numbers, scores, copies and answers about prompts of these tokens and of the
    open chunk."""
    rows = 2 * row_bytes(heads * head_dim, dtype, kv_dtype)
    about = POSITION_BYTES + NUMBER_BYTES + SCORE_BYTES + COPY_BYTES + ASKED_BYTES
    return layers * (budget * rows + (budget + chunk) * about)


def workspace_bytes(*, layers: int, heads: int, head_dim: int, budget: int, chunk: int, dtype: str) -> int:
    """Bytes of the workspace that all sessions of a worker share: keys and values of a chunk and of everything it
    attends to, plus the chunk's keys as they will be stored. ``budget`` is the largest of the sessions' budgets."""
    return layers * (2 * (budget + chunk) + chunk) * heads * head_dim * BYTES_PER_ELEMENT[dtype]


def host_bytes(
    *, layers: int, heads: int, head_dim: int, slots: int, places: int, dtype: str, salient: bool = False
) -> int:
    """Bytes of host memory for a tier of ``slots`` evicted tokens per layer, of which ``places`` come back at once:
    keys and values as computed, positions and numbers; if ``salient``, how far each stands out, and its number."""
    rows = 2 * heads * head_dim * BYTES_PER_ELEMENT[dtype]
    each = POSITION_BYTES + NUMBER_BYTES + (SCORE_BYTES + NUMBER_BYTES if salient else 0)
    return layers * ((slots + places) * rows + slots * each)


def places_of(policy: str, budget: int, sink: int, recent: int) -> int:
    """Tokens of the budget that come back from host memory for each chunk; the device stores the others."""
    return budget - sink - recent if policy in RECALLING else 0


def layer_budgets(policy: str, layers: int, budget: int, sink: int, recent: int) -> list[int]:
    """Tokens that each layer stores on the device. For most policies the same; under ``pyramid`` the tokens beside sink
    and recent ones fall evenly from the first layer to the last (PyramidKV, 2406.02069), with the same sum."""
    stored = budget - places_of(policy, budget, sink, recent)
    if policy not in PYRAMIDAL or layers == 1:
        return [stored] * layers
    mean = stored - sink - recent
    least = mean / PYRAMID_BETA
    step = 2 * (mean - least) / (layers - 1)
    ends = [round(layer * (2 * mean - least) - step * layer * (layer - 1) / 2) for layer in range(layers + 1)]
    return [sink + recent + end - begin for begin, end in itertools.pairwise(ends)]


def room_for_caches(free: int, working: int = 0) -> int:
    """Bytes of ``free`` that the caches of all sessions may take; a chunk's temporaries take ``working`` meanwhile."""
    return max(0, min(round(CACHE_SHARE * free), free - working))


def check_room(
    policy: str, budget: float, sink: float, recent: float, unit: str, known: tuple[str, ...] = SERVED_POLICIES
) -> None:
    """Raise PolicyError unless ``policy`` is in ``known`` and its budget can hold the sink and the recent tokens."""
    if policy not in known:
        only = " is for evaluations only" if policy in POLICY_NAMES else ""
        about = f"cache policy {policy!r}{only}" if only else f"unknown cache policy {policy!r}"
        raise PolicyError(f"{about}; known policies: {', '.join(known)}")
    for name, amount in (("budget", budget), ("sink", sink), ("recent", recent)):
        if not math.isfinite(amount) or amount < 0:
            raise PolicyError(f"cache {name} of {amount} {unit} must be a number of 0 or more")
    if budget <= 0:
        raise PolicyError(f"cache budget of {budget} {unit} must be more than 0")
    if budget < sink + recent:
        raise PolicyError(
            f"cache budget of {budget} {unit} cannot hold {sink} sink + {recent} recent {unit}: "
            f"raise the budget to at least {sink + recent} or keep fewer"
        )
    if policy == "window" and sink:
        raise PolicyError(
            f"policy 'window' keeps no sink, but sink is {sink} {unit}: use 'sink_window' or set sink to 0"
        )


def check_host(policy: str, recent: float, host: float, unit: str) -> None:
    """Raise PolicyError unless ``policy`` can use a tier of ``host`` latent frames or tokens in host memory."""
    if not math.isfinite(host) or host < 0:
        raise PolicyError(f"cache host memory of {host} {unit} must be a number of 0 or more")
    if policy in RECALLING and (not host or not recent):
        raise PolicyError(
            f"policy {policy!r} recalls evicted tokens from host memory: it needs recent tokens (now {recent:g} "
            f"{unit}) and host memory for more than 0 {unit}"
        )
    if policy not in RECALLING and host:
        raise PolicyError(f"only policies {' and '.join(sorted(RECALLING))} use host memory, not {policy!r}")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """A session's cache in latent frames, so that one setting fits models of any resolution.

    Budget, sink and recent may be fractional: a budget of 1.5 latent frames is 1.5 times the tokens of one frame.
    """

    policy: str
    budget_latents: float
    sink_latents: float
    recent_latents: float
    position_mode: PositionMode
    kv_dtype: str = "auto"
    host_latents: float = 0.0  # evicted latent frames in host memory, for policies that recall them

    def __post_init__(self) -> None:
        amounts = (self.budget_latents, self.sink_latents, self.recent_latents)
        check_room(self.policy, *amounts, "latent frames", POLICY_NAMES)
        if self.kv_dtype not in KV_DTYPES:
            raise PolicyError(f"unknown kv_dtype {self.kv_dtype!r}; known: {', '.join(KV_DTYPES)}")
        if self.position_mode not in get_args(PositionMode):
            known = ", ".join(get_args(PositionMode))
            raise PolicyError(f"unknown position mode {self.position_mode!r}; known modes: {known}")
        check_merging(self.policy, self.kv_dtype)
        check_host(self.policy, self.recent_latents, self.host_latents, "latent frames")

    @classmethod
    def filled_in(
        cls,
        policy: str,
        budget_latents: float,
        sink: float | None,
        recent: float | None,
        most: float,
        position_mode: PositionMode = "relative",
        kv_dtype: str = "auto",
        host: float | None = None,
    ) -> CacheConfig:
        """A configuration with defaults for what is None. ``recent`` defaults to a quarter of the budget, ``sink`` of
        policy "sink_window" as well, each at most ``most`` latent frames; other policies have no sink. Sinks are whole
        latent frames if one fits: a fraction of a frame is only the top of a picture. ``host`` counts only for
        policies with a tier there. Raises PolicyError."""
        usual = min(most, PROTECTED_SHARE * budget_latents)
        if sink is None:
            whole = max(1.0, float(round(usual))) if budget_latents >= WHOLE_SINKS_FROM else usual
            sink = whole if policy == "sink_window" else 0.0
        return cls(
            policy=policy,
            budget_latents=budget_latents,
            sink_latents=sink,
            recent_latents=usual if recent is None else recent,
            position_mode=position_mode,
            kv_dtype=kv_dtype,
            host_latents=(HOST_LATENTS if host is None else host) if policy in RECALLING else 0.0,
        )

    def budget_tokens(self, tokens_per_latent: int) -> int:
        """The budget in tokens per layer."""
        return round(self.budget_latents * tokens_per_latent)

    def places(self, tokens_per_latent: int) -> int:
        """Tokens of the budget that come back from host memory for each chunk."""
        return places_of(self.policy, *self._tokens(tokens_per_latent))

    def layer_budgets(self, tokens_per_latent: int, layers: int) -> list[int]:
        """Tokens that each layer stores on the device."""
        return layer_budgets(self.policy, layers, *self._tokens(tokens_per_latent))

    def most_seen(self, tokens_per_latent: int, layers: int) -> int:
        """Most tokens beside its own that a chunk attends to in a layer."""
        return max(self.layer_budgets(tokens_per_latent, layers)) + self.places(tokens_per_latent)

    def _tokens(self, tokens_per_latent: int) -> tuple[int, int, int]:
        """Budget, sink and recent tokens."""
        sink, recent = (round(each * tokens_per_latent) for each in (self.sink_latents, self.recent_latents))
        return self.budget_tokens(tokens_per_latent), sink, recent

    def host_bytes(self, *, layers: int, heads: int, head_dim: int, tokens_per_latent: int, dtype: str) -> int:
        """Bytes of host memory for one session's evicted tokens."""
        if self.policy not in RECALLING:
            return 0
        slots, places = round(self.host_latents * tokens_per_latent), self.places(tokens_per_latent)
        return host_bytes(
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            slots=slots,
            places=places,
            dtype=dtype,
            salient=self.policy in SALIENT,
        )

    def promised_bytes(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        tokens_per_latent: int,
        tokens_per_chunk: int,
        dtype: str,
    ) -> int:
        """Bytes of one session's cache; admission uses this number before anything is allocated."""
        return promised_bytes(
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            budget=self.budget_tokens(tokens_per_latent) - self.places(tokens_per_latent),
            chunk=tokens_per_chunk,
            dtype=dtype,
            kv_dtype=self.kv_dtype,
        )
