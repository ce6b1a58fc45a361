"""Creates the cache of a session."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cache.config import HEADS_OF, CacheConfig
from cache.kv_cache import KVCache
from cache.registry import policy_named
from model.spec import ModelSpec
from model.stream.stream_state import StreamError
from model.transformer import rope
from model.transformer.passes import geometry_of
from model.weights import LoadedModel


def new_cache(
    model: LoadedModel,
    config: CacheConfig,
    seed: int,
    foresight: bool = False,
    shared: bool = False,
    pose: bool = True,
) -> KVCache:
    """A session's cache; ``shared``: in the model's workspace, for sessions that make chunks one at a time. Raises
    StreamError if the policy needs evidence that is unavailable. Only evaluations have ``foresight``, or hide the
    ``pose``, so that policies see keys that are not rotated by place."""
    spec = model.spec
    if why := lacking(model).get(config.policy):
        raise StreamError(why)
    if "future" in policy_named(config.policy).needs and not foresight:
        raise StreamError(f"cache policy {config.policy!r} knows the future: it exists in evaluations only")
    return KVCache(
        geometry_of(spec, model.dtype, model.device, model.dit.group),
        budget=config.budget_tokens(spec.tokens_per_latent),
        policy=config.policy,
        sink=round(config.sink_latents * spec.tokens_per_latent),
        recent=round(config.recent_latents * spec.tokens_per_latent),
        position_range=spec.trained_latents if config.position_mode == "relative" else None,
        seed=seed,
        kv_dtype=config.kv_dtype,
        unplaced=None if pose else partial(_unplaced, spec),
        workspace=model.passes.workspace(model.dtype, model.device) if shared else None,
        group=model.dit.group,
        host=round(config.host_latents * spec.tokens_per_latent),
    )


def lacking(model: LoadedModel) -> dict[str, str]:
    """The policies that need a head that these weights do not have, each with a message about it."""
    return {
        policy: f"cache policy {policy!r} needs a head for {head}, and these weights of {model.spec.name!r} have none: "
        f"train one with `pafu distill {head}`, or choose a policy without one, for example 'value_novelty'"
        for policy, heads in HEADS_OF.items()
        for head in reversed(heads)
        if getattr(model, head) is None
    }


def _unplaced(spec: ModelSpec, keys: Tensor, positions: Tensor) -> Tensor:
    """Keys (n, H, D) before their rotation by the row and column of ``positions`` (n, 3)."""
    return rope.unrotate_place(keys[None], positions[None], spec.rope_split, spec.rope_theta)[0]
