"""Loads public checkpoints of the Wan2.1 family: compares headers first, then reads and casts tensor by tensor.

Errors name tensors that are missing, extra or of the wrong shape, and the command that downloads or converts the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from model.checkpoints.errors import WeightsError, of_part
from model.checkpoints.files import Contents, Part, Stored, fingerprint, require_finite, survey, survey_beside
from model.checkpoints.lora import Change, changes
from model.parts import build, settle
from model.spec import WAN_FAMILY, ModelSpec
from model.transformer.dit import CausalDiT
from model.wan.text import Placement, TokenizerMissing, Umt5
from model.wan.tiny_vae import TinyVAE

TOKENIZERS = ("google/umt5-xxl", "tokenizer", ".")
TINY_CODEC = "taew2.1"  # what a TAEHV file makes of the spec's codec
TINY_CODEC_MEMORY = 5_376  # see ModelSpec.codec_memory


@dataclass(frozen=True)
class Beside:
    """Paths of the parts beside the transformer, if they are elsewhere, and where the text encoder stays."""

    text_encoder: Path | None = None
    vae: Path | None = None
    base: Path | None = None  # the last place to look: a pulled repository of the family
    text_placement: str = "offload"  # a Placement


def codec_named(weights: Path, beside: Beside) -> str | None:
    """The name of the video codec in these files if it is not the spec's own; None also if there is none or they
    cannot be read, which loading them will tell."""
    try:
        others = survey(weights) if weights.is_dir() else survey_beside(weights)
        found = _beside(beside.vae, others, beside.base, "vae", "tiny_vae")
    except WeightsError:
        return None
    return TINY_CODEC if found is not None and found.layout.part == "tiny_vae" else None


def load_public(
    spec: ModelSpec, weights: Path, device: torch.device, dtype: torch.dtype, beside: Beside, whole: bool = True
) -> tuple[ModelSpec, dict[str, nn.Module], str, str]:
    """The spec with what these files change in it; the parts "dit", "text" and "vae" on ``device`` (only "dit" unless
    ``whole``); the digest of all files, and that of the transformer's own. Raises WeightsError."""
    files = _found(spec, weights, beside)
    parts = {"dit": _dit(spec, files, device, dtype)}
    if whole:
        with of_part(files.of_text):
            parts["text"] = _text(spec, files.text, beside, device, dtype)
        with of_part(files.of_vae):
            parts["vae"] = _vae(spec, files.vae, device, dtype)
    if files.vae.layout.part == "tiny_vae":
        spec = replace(spec, codec_memory=TINY_CODEC_MEMORY)
    return spec, parts, fingerprint([*files.own, *files.text.files, *files.vae.files]), fingerprint(files.own)


def check_public(spec: ModelSpec, weights: Path, beside: Beside) -> str:
    """The digest of the transformer's files. Raises WeightsError for all that can be told without reading weights."""
    files = _found(spec, weights, beside)
    _empty_dit(spec, files)
    with of_part(files.of_text):
        _empty_text(spec, files.text)
    with of_part(files.of_vae):
        _empty_vae(spec, files.vae)
    return fingerprint(files.own)


@dataclass(frozen=True)
class Files:
    """The parts of a model, and the settings that say where text encoder and VAE are."""

    contents: Contents
    dit: Part
    text: Part
    vae: Part
    of_text: str
    of_vae: str

    @property
    def own(self) -> list[Path]:
        """The files of the transformer and its LoRAs."""
        return [*self.dit.files, *(lora.file for lora in self.contents.loras)]


def _found(spec: ModelSpec, weights: Path, beside: Beside) -> Files:
    around = weights if weights.is_dir() else weights.parent
    contents = survey(weights)
    dit = _only(contents, "dit", spec, weights)
    named = beside.text_encoder and beside.vae  # then there is nothing to search for
    others = contents if weights.is_dir() or named else survey_beside(weights)
    of_text, of_vae = "text_encoder" if beside.text_encoder else "weights", "vae" if beside.vae else "weights"
    with of_part(of_text):
        text = _beside(beside.text_encoder, others, beside.base, "text")
        if text is None:
            raise _missing(spec, "text encoder", beside.text_encoder, around, others)
    with of_part(of_vae):
        vae = _beside(beside.vae, others, beside.base, "vae", "tiny_vae")
        if vae is None:
            raise _missing(spec, "VAE", beside.vae, around, others)
    return Files(contents, dit, text, vae, of_text, of_vae)


def _dit(spec: ModelSpec, files: Files, device: torch.device, dtype: torch.dtype) -> nn.Module:
    module, changed = _empty_dit(spec, files)
    fill(module, files.dit.tensors, device, dtype, changed)
    return settle(module, device, dtype)


def _empty_dit(spec: ModelSpec, files: Files) -> tuple[nn.Module, dict[str, list[Change]]]:
    """The module without memory, and what LoRAs change in it."""
    with torch.device("meta"):
        module = CausalDiT(spec)
    expected = module.state_dict()
    _check_family(spec, files.dit)
    check_tensors(files.dit, expected, _fetch(spec))
    return module, changes(files.contents.loras, expected)


def _text(spec: ModelSpec, part: Part, beside: Beside, device: torch.device, dtype: torch.dtype) -> nn.Module:
    module, tensors = _empty_text(spec, part)
    module.placement = cast(Placement, beside.text_placement)
    where = device if beside.text_placement == "device" else torch.device("cpu")
    fill(module.encoder, tensors, where, dtype)
    # one shared parameter; otherwise each would be moved separately
    module.encoder.encoder.embed_tokens.weight = module.encoder.shared.weight
    return settle(module, device, dtype)


def _empty_text(spec: ModelSpec, part: Part) -> tuple[Umt5, dict[str, Stored]]:
    """The module without memory but with its tokenizer, and the tensors for it."""
    with torch.device("meta"):
        module = build(spec.text_encoder, spec)
    assert isinstance(module, Umt5)
    tensors = dict(part.tensors)
    tensors.pop("encoder.embed_tokens.weight", None)  # the same tensor under its second name
    if "shared.weight" in tensors:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    check_tensors(part, module.encoder.state_dict(), _fetch(spec), tensors)
    _read_tokenizer(module, part)
    return module, tensors


def _read_tokenizer(module: Umt5, part: Part) -> None:
    """Read the tokenizer beside the text encoder's file or its folder; byte-level encoders need none."""
    if not module.needs_tokenizer:
        return
    folder = part.files[0].parent
    tried = [base / name for base in (folder, folder.parent) for name in TOKENIZERS]
    for place in tried:
        try:
            return module.read_tokenizer(place)
        except TokenizerMissing:
            continue
    raise WeightsError(
        f"the tokenizer of the text encoder is missing: {tried[0]}/tokenizer.json; it is in the same repository"
    )


def _vae(spec: ModelSpec, part: Part, device: torch.device, dtype: torch.dtype) -> nn.Module:
    module, inner = _empty_vae(spec, part)
    rows = {name: len(tensor) for name, tensor in inner.state_dict().items()}
    fill(inner, part.tensors, device, dtype, keep_last=rows)
    return settle(module, device, dtype)


def _empty_vae(spec: ModelSpec, part: Part) -> tuple[nn.Module, nn.Module]:
    """The codec without memory, and the module in it that has the tensors."""
    with torch.device("meta"):
        module = build(TINY_CODEC if part.layout.part == "tiny_vae" else spec.video_codec, spec)
    if isinstance(module, TinyVAE) and not any(name.startswith("encoder.") for name in part.tensors):
        module.leave_out_encoder()
    inner: nn.Module = getattr(module, "vae", module)
    check_tensors(part, inner.state_dict(), _fetch(spec), fewer=getattr(module, "may_shrink", ()))
    return module, inner


def fill(
    module: nn.Module,
    tensors: Mapping[str, Stored],
    device: torch.device,
    dtype: torch.dtype,
    changed: Mapping[str, list[Change]] | None = None,
    keep_last: Mapping[str, int] | None = None,
) -> None:
    """Make ``tensors`` the parameters of ``module``, one at a time, so that at most one is in memory twice. Raises
    WeightsError for values that are not finite.

    ``keep_last``: how many rows the module uses of a tensor; if a file has more, the last ones are used.
    """
    state: dict[str, Tensor] = {}
    read: dict[tuple[Path, str], Tensor] = {}
    for name, stored in tensors.items():
        key = (stored.file, stored.name)
        if key not in read:
            tensor = stored.read()
            for change in (changed or {}).get(name, ()):
                change.require_finite()
                tensor = change.added_to(tensor)
            if keep_last is not None and tensor.ndim:
                tensor = tensor[-keep_last[name] :]
            read[key] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
            require_finite(read[key], stored.name, stored.file)
        state[name] = read[key]
    module.load_state_dict(state, assign=True)


def check_tensors(
    part: Part,
    expected: Mapping[str, Tensor],
    hint: str,
    tensors: Mapping[str, Stored] | None = None,
    fewer: tuple[str, ...] = (),
) -> None:
    """Raise WeightsError for the first tensor that is missing, extra or of the wrong shape. Tensors in ``fewer`` may
    have more rows in the file than are used."""
    found = part.tensors if tensors is None else tensors
    about = f"{part.where} ({part.layout.name} layout)"
    if missing := sorted(expected.keys() - found.keys()):
        raise WeightsError(f"{about} lacks tensor {missing[0]!r}{_more(missing)}{hint}")
    if extra := sorted(found.keys() - expected.keys()):
        raise WeightsError(f"{about} holds tensor {extra[0]!r}{_more(extra)}, which the model does not have{hint}")
    for name, tensor in expected.items():
        wanted, there = tuple(tensor.shape), found[name].shape
        if there != wanted and not (name in fewer and there[0] > wanted[0] and there[1:] == wanted[1:]):
            raise WeightsError(f"{about}: tensor {name!r} has shape {there}, the model needs {wanted}{hint}")
        if tensor.is_floating_point() and not found[name].floating:
            raise WeightsError(
                f"{about}: tensor {name!r} is of type {found[name].dtype}, the model needs floating point{hint}"
            )


def _check_family(spec: ModelSpec, part: Part) -> None:
    """Raise WeightsError with a clear message for a checkpoint of another size or task."""
    patch, block = part.tensors.get("patch_embedding.weight"), part.tensors.get("blocks.0.self_attn.q.weight")
    if any("img" in name for name in part.tensors) or (
        patch and len(patch.shape) == 5 and patch.shape[:1] == (spec.dim,) and patch.shape[1] > spec.latent_channels
    ):
        raise WeightsError(f"{part.where} is an image-to-video checkpoint; {spec.name!r} is text-to-video")
    if block and block.shape[0] != spec.dim:
        fitting = [each.name for each in WAN_FAMILY if each.dim == block.shape[0]]
        which = f"models of that size: {', '.join(fitting)}" if fitting else "no model of that size is known"
        raise WeightsError(
            f"{part.where} is a transformer of width {block.shape[0]}, but {spec.name!r} has {spec.dim}; {which}"
        )


def _only(contents: Contents, kind: str, spec: ModelSpec, path: Path) -> Part:
    found = contents.parts.get(kind, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(f"{path} holds {len(found)} transformers: name one file, for example {found[0].files[0]}")
    if contents.pickled:
        raise WeightsError(f"{path} contains only pickles: convert them once with `pafu convert {contents.pickled[0]}`")
    unknown = contents.parts.get("unknown")
    if unknown and not unknown[0].tensors:
        raise WeightsError(f"{unknown[0].where} holds no tensors{_fetch(spec)}")
    if unknown:
        raise WeightsError(
            f"{unknown[0].where} is a checkpoint of another family (it holds {unknown[0].layout.name}): "
            f"Pafu serves the Wan2.1 family{_fetch(spec)}"
        )
    raise WeightsError(f"{path} holds {_held(contents)} and no transformer of {spec.name!r}{_fetch(spec)}")


def _beside(named: Path | None, others: Contents, base: Path | None, *kinds: str) -> Part | None:
    """The part's path: the given one, else beside the weights, else in the family's base repository."""
    if named is not None:
        return _one_of(survey(named), *kinds)
    return _one_of(others, *kinds) or (_one_of(survey(base), *kinds) if base else None)


def _one_of(contents: Contents, *kinds: str) -> Part | None:
    found = [part for kind in kinds for part in contents.parts.get(kind, [])]
    return found[0] if found else None


def _missing(spec: ModelSpec, what: str, named: Path | None, around: Path, others: Contents) -> WeightsError:
    """``named``: the path that was given for this part; None: it was looked for in ``around``."""
    contents = survey(named) if named else others
    pickled = [path for path in contents.pickled if ("t5" in path.name) == (what == "text encoder")]
    convert = f"convert it with `pafu convert {pickled[0]}`, or " if pickled else ""
    name = "name another path" if named else f"name it with --{what.lower().replace(' ', '-')}"
    held = f", which holds {_held(contents)}" if named and not pickled else ""
    return WeightsError(
        f"the {what} of {spec.name!r} is missing in {named or around}{held}: {convert}{name}{_fetch(spec)}"
    )


KINDS = {"dit": "a transformer", "text": "a text encoder", "vae": "a VAE", "tiny_vae": "a tiny VAE"}


def _held(contents: Contents) -> str:
    """What a folder or file holds, for messages."""
    held = [KINDS[kind] for kind in contents.parts if kind in KINDS] + (["a LoRA"] if contents.loras else [])
    unknown = contents.parts.get("unknown", [])
    held += [f"a checkpoint of another family ({unknown[0].layout.name})"] if unknown else []
    return f"only {' and '.join(held)}" if held else "no safetensors file"


def _fetch(spec: ModelSpec) -> str:
    """What to do, for the end of a message."""
    return f"; `pafu pull {spec.name}` downloads everything" if spec.source else ""


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
