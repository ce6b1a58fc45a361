"""Weights on disk: a folder with one safetensors file per part and a ``model.json`` with their names and checksums.

Loading is strict: before anything runs, an error names the file, the tensor and both shapes of whatever does not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.errors import WeightsError as WeightsError  # raised by most functions of this module
from model.checkpoints.files import fingerprint, require_finite
from model.checkpoints.public import Beside, check_public, load_public
from model.parts import MissingExtra, TextEncoder, VideoCodec, build, settle
from model.spec import ModelSpec, spec_named
from model.transformer.asking import ASKING_FILE, AskingHead, Heads
from model.transformer.dit import CausalDiT, open_gates
from model.transformer.passes import Passes
from model.transformer.salience import HEAD_FILE, H, SalienceError, SalienceHead, load_head

FORMAT = 1
DESCRIPTION = "model.json"
PARTS = ("dit", "text", "vae")
RANDOM_STD = 0.05
SHIPPED = {"pafu-mini": Path(__file__).parent / "weights_mini"}


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to stream: its parts in ``dtype`` on ``device``. ``digest`` identifies its weights, and
    ``student`` those that heads belong to: of a public checkpoint the transformer alone.

    ``salience`` and ``asking`` are the heads of the learned cache policies, or None.
    """

    spec: ModelSpec
    dit: CausalDiT
    text: TextEncoder
    vae: VideoCodec
    device: torch.device
    dtype: torch.dtype
    digest: str
    salience: SalienceHead | None = None
    asking: AskingHead | None = None
    student_digest: str = ""  # if it is not `digest`
    noise: str = "device"  # where noise is drawn: the model's device, or "cpu" for the same noise on every machine

    @property
    def student(self) -> str:
        """What a head names as its student."""
        return self.student_digest or self.digest

    @property
    def heads(self) -> Heads:
        """The heads for cache policies."""
        return Heads(self.salience, self.asking)

    @cached_property
    def passes(self) -> Passes:
        """Runs this model's passes; its sessions share it."""
        return Passes(self.dit, self.heads, self.spec, self.device)

    @property
    def noise_device(self) -> torch.device:
        """The device that draws the noise."""
        return self.device if self.noise == "device" else torch.device("cpu")

    @cached_property
    def _decoding(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def decoding(self) -> AbstractContextManager[Any]:
        """A context for decoding: on a GPU a separate CUDA stream, which runs beside the passes of the next chunk."""
        return torch.cuda.stream(self._decoding) if self.device.type == "cuda" else nullcontext()

    def to_host(self, *tensors: Tensor) -> list[Tensor]:
        """Copies of the tensors on the host, with a single wait for the device."""
        if self.device.type != "cuda":
            return [tensor.cpu() for tensor in tensors]
        copies = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return copies


def preferred_dtype(device: torch.device | str) -> torch.dtype:
    """The fastest dtype that is accurate enough: bf16, except on CPUs without bf16 arithmetic, where it is emulated."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    abilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else torch.float32


def save_model(
    folder: Path,
    spec: ModelSpec,
    dit: nn.Module,
    text: nn.Module,
    vae: nn.Module,
    *,
    trained_steps: dict[str, int],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write the parts to ``folder``, floating-point tensors in ``dtype``; the description is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for part, module in zip(PARTS, (dit, text, vae), strict=True):
        tensors = {name: _stored(tensor, dtype) for name, tensor in module.state_dict().items()}
        data, file = save_safetensors(tensors), _file_of(part, spec)
        (folder / file).write_bytes(data)
        checksums[file] = hashlib.sha256(data).hexdigest()
    description = {"format": FORMAT, "name": spec.name, "sha256": checksums, "trained_steps": trained_steps}
    _describe(folder, description)


def add_decoder(folder: Path, spec: ModelSpec, vae: nn.Module, steps: int) -> None:
    """Add the codec of ``spec``, which draws in more detail, to the weights in ``folder``; ``steps`` trained it."""
    file = _file_of("vae", spec)
    data = save_safetensors({name: _stored(tensor, torch.float16) for name, tensor in vae.state_dict().items()})
    (folder / file).write_bytes(data)
    description = json.loads((folder / DESCRIPTION).read_text())
    description["sha256"][file] = hashlib.sha256(data).hexdigest()
    description["trained_steps"][Path(file).stem] = steps
    _describe(folder, description)


def _describe(folder: Path, description: dict[str, Any]) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def save_transformer(folder: Path, dit: nn.Module, dtype: torch.dtype) -> str:
    """Write the transformer alone, in Wan's public layout, to ``folder``; returns its digest (LoadedModel.student)."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "diffusion_pytorch_model.safetensors"
    aside = file.with_name(f"{file.name}.part")
    save_file({name: _stored(tensor, dtype) for name, tensor in dit.state_dict().items()}, aside)
    aside.replace(file)  # so that a file of this name is always complete
    return fingerprint([file])


def load_model(
    spec_or_name: ModelSpec | str,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    head: Path | None = None,
    beside: Beside | None = None,
    whole: bool = True,
) -> LoadedModel:
    """Load the model's parts from ``folder``, or the weights that ship with Pafu, in ``dtype`` (None: the preferred
    one).

    ``folder`` was written by ``save_model``, or is a public checkpoint of the Wan2.1 family (a folder or a file);
    ``beside`` names parts that are elsewhere. ``head`` is the salience head's file; None uses the folder's own, if any.
    Unless ``whole``, a public checkpoint's text encoder and codec are not read, and must not be used.
    Raises WeightsError for anything missing, damaged or unfit.
    """
    spec = spec_named(spec_or_name) if isinstance(spec_or_name, str) else spec_or_name
    folder = folder or _shipped_folder(spec)
    model = load_parts(spec, folder, device, dtype, beside, whole)
    chosen, part = _chosen_head(folder, head)
    if chosen is not None:
        model = with_head(model, chosen, part)
    asking = _beside_weights(folder) / ASKING_FILE
    return with_asking(model, asking) if asking.is_file() else model


def check_model(spec: ModelSpec, folder: Path | None, head: Path | None, beside: Beside) -> None:
    """Raise WeightsError for all that can be told of a public checkpoint and its head before any weights are read."""
    folder = folder or _shipped_folder(spec)
    if not spec.public or (folder / DESCRIPTION).is_file():
        return
    try:
        student = check_public(spec, folder, beside)
    except MissingExtra as error:
        raise WeightsError(str(error)) from error
    chosen, part = _chosen_head(folder, head)
    if chosen is not None:
        _head(spec, student, chosen, SalienceHead, part)


def _beside_weights(folder: Path) -> Path:
    return folder if folder.is_dir() else folder.parent


def _chosen_head(folder: Path, head: Path | None) -> tuple[Path | None, str]:
    """The salience head that is loaded, None for none, and the setting that says so."""
    own = _beside_weights(folder) / HEAD_FILE
    return (head, "salience_head") if head is not None else (own if own.is_file() else None, "weights")


def load_parts(
    spec: ModelSpec,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    beside: Beside | None = None,
    whole: bool = True,
) -> LoadedModel:
    """As ``load_model``, without heads."""
    if spec.public and not (folder / DESCRIPTION).is_file():
        return _load_public(spec, folder, torch.device(device), dtype, beside or Beside(), whole)
    require_own_parts(spec, beside or Beside(), f"the weights in {folder}")
    return _load_own(spec, folder, device, dtype)


def require_own_parts(spec: ModelSpec, beside: Beside, whose: str) -> None:
    """Raise WeightsError if ``beside`` names other parts for weights that have their own; ``whose`` says which."""
    for part in ("text_encoder", "vae"):
        if getattr(beside, part) is not None:
            raise WeightsError(f"model {spec.name!r} uses its own, of {whose}: leave this setting out", part)


def _load_public(
    spec: ModelSpec, weights: Path, device: torch.device, dtype: torch.dtype | None, beside: Beside, whole: bool
) -> LoadedModel:
    dtype = dtype or preferred_dtype(device)
    try:
        spec, parts, digest, own = load_public(spec, weights, device, dtype, beside, whole)
    except MissingExtra as error:
        raise WeightsError(str(error)) from error
    loaded: dict[str, Any] = {"text": None, "vae": None, **parts}
    return LoadedModel(spec, **loaded, device=device, dtype=dtype, digest=digest, student_digest=own)


def _load_own(spec: ModelSpec, folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> LoadedModel:
    checksums = _read_description(folder, spec)
    with torch.device("meta"):  # no memory: the loaded tensors become the parameters
        parts = _build_parts(spec)
    for part in PARTS:
        _load_part(parts[part], folder / _file_of(part, spec), checksums)
    model = assemble(spec, parts, device, dtype, _digest(checksums, spec))
    # heads belong to the weights, in whatever detail the codec draws
    return dataclasses.replace(model, student_digest=_digest(checksums, spec.at(spec.view_width, spec.view_height)))


def _digest(checksums: dict[str, str], spec: ModelSpec) -> str:
    return hashlib.sha256("".join(checksums[_file_of(part, spec)] for part in PARTS).encode()).hexdigest()


def with_head(model: LoadedModel, path: Path, part: str = "salience_head") -> LoadedModel:
    """The model with the salience head in ``path``. Raises WeightsError if the head belongs to another model."""
    head = _head(model.spec, model.student, path, SalienceHead, part)
    return dataclasses.replace(model, salience=head.to(device=model.device, dtype=model.dtype))


def with_asking(model: LoadedModel, path: Path) -> LoadedModel:
    """The model with the asking head in ``path``. Raises WeightsError if the head belongs to another model."""
    head = _head(model.spec, model.student, path, AskingHead, "weights")
    return dataclasses.replace(model, asking=head.to(device=model.device, dtype=model.dtype))


def _head(spec: ModelSpec, student: str, path: Path, make: Callable[[ModelSpec], H], part: str) -> H:
    try:
        return load_head(path, spec, student, make)
    except SalienceError as error:
        raise WeightsError(str(error), part) from error


def random_model(
    spec: ModelSpec, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> LoadedModel:
    """A model with random weights that depend only on ``seed``, for tests and measurements. Its pictures are
    meaningless."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _build_parts(spec)
        for part in parts.values():
            _randomise_zeros(part)
        open_gates(
            cast(CausalDiT, parts["dit"])
        )  # nearly closed gates would hide attention from every test and measurement
        salience, asking = SalienceHead(spec), AskingHead(spec)
    model = assemble(spec, parts, device, dtype, f"random-{seed}")
    for head in (salience, asking):
        settle(head, model.device, model.dtype)
    return dataclasses.replace(model, salience=salience, asking=asking)


def _build_parts(spec: ModelSpec) -> dict[str, nn.Module]:
    try:
        text, vae = build(spec.text_encoder, spec), build(spec.video_codec, spec)
        return {"dit": CausalDiT(spec), "text": text, "vae": vae}
    except (MissingExtra, ValueError) as error:
        raise WeightsError(f"model {spec.name!r} cannot be built: {error}") from error


@torch.no_grad()
def _randomise_zeros(module: nn.Module) -> None:
    """Randomise matrices that start at zero; otherwise a random model would only draw grey."""
    for tensor in module.state_dict().values():
        if tensor.ndim > 1 and not bool(tensor.any()):
            tensor.normal_(std=RANDOM_STD)


def assemble(
    spec: ModelSpec, parts: dict[str, nn.Module], device: torch.device | str, dtype: torch.dtype | None, digest: str
) -> LoadedModel:
    """The modules "dit", "text" and "vae", moved and frozen, as a model that is ready to stream."""
    device, dtype = torch.device(device), dtype or preferred_dtype(device)
    moved: dict[str, Any] = {name: settle(part, device, dtype) for name, part in parts.items()}
    return LoadedModel(spec, **moved, device=device, dtype=dtype, digest=digest)


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


def _file_of(part: str, spec: ModelSpec) -> str:
    larger = f".{spec.width}x{spec.height}" if part == "vae" and spec.detail > 1 else ""
    return f"{part}{larger}.safetensors"


def _shipped_folder(spec: ModelSpec) -> Path:
    if spec.name not in SHIPPED:
        hub = f"{spec.source.repo} (downloaded from the hub on first use), or " if spec.source else ""
        raise WeightsError(f"no weights ship with model {spec.name!r}: name {hub}a folder or file with its weights")
    return SHIPPED[spec.name]


def _read_description(folder: Path, spec: ModelSpec) -> dict[str, str]:
    """Checksums by file name."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {folder} is not a folder of Pafu weights")
    try:
        description = json.loads(path.read_text())
        version, name, checksums = description["format"], description["name"], dict(description["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if version != FORMAT:
        raise WeightsError(f"{path} has format {version}, this version of Pafu reads format {FORMAT}")
    if name != spec.name:
        raise WeightsError(f"{path} describes model {name!r}, but {spec.name!r} was asked for")
    for part in PARTS:
        if (file := _file_of(part, spec)) not in checksums:
            smaller = f": choose size {spec.view_width}x{spec.view_height} for these weights" if spec.detail > 1 else ""
            raise WeightsError(f"{path} gives no sha256 for {file}{smaller}")
    return checksums


def _load_part(module: nn.Module, path: Path, checksums: dict[str, str]) -> None:
    """Fill ``module`` from ``path``, after checking the file's checksum and all names and shapes."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing")
    data = path.read_bytes()
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} is truncated or no safetensors file ({len(data)} bytes): {error}; copy it again"
        ) from error
    if hashlib.sha256(data).hexdigest() != checksums[path.name]:
        raise WeightsError(
            f"{path} does not match its sha256 in {DESCRIPTION}: the file is damaged or was replaced; copy it again"
        )
    _check_tensors(path, expected=module.state_dict(), found=tensors)
    for name, tensor in tensors.items():
        require_finite(tensor, name, path)
    module.load_state_dict(tensors, assign=True)


def _check_tensors(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise WeightsError(f"{path} lacks tensor {missing[0]!r}{_and_more(missing)}")
    if extra := sorted(found.keys() - expected.keys()):
        raise WeightsError(f"{path} holds tensor {extra[0]!r}, which the model does not have{_and_more(extra)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, the model needs {tuple(tensor.shape)}"
            raise WeightsError(f"{path}: tensor {name!r} has shape {shapes}")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
