"""Converts pickled checkpoints (.pt, .pth) to safetensors. The only module that unpickles, and it accepts only tensors.

Servers read only safetensors. The new file records its source; a note beside it has both checksums.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.errors import WeightsError
from model.checkpoints.files import first_bytes, require_finite, what_begins_so
from model.checkpoints.layouts import TRAINED, is_lora, recognise

LORAS = ("generator_lora", "lora")  # keys of LoRAs in training dumps
CONTAINERS = (*TRAINED, *LORAS, "state_dict", "model_state_dict", "module", "params")
BLOCK = 2**22
ABOUT = "pafu"
UNSAFE = re.compile(r"(?:GLOBAL|global:? (?:GLOBAL )?|class:?) ?([\w.]+)")  # the refused name in torch's message


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    file: Path
    part: str  # the layout's name and part, or a LoRA
    tensors: int
    sha256: str


def convert(source: Path, target: Path | None = None, dtype: torch.dtype | None = None, origin: str = "") -> Converted:
    """Write ``source``'s tensors to ``target`` (None: beside it), floating-point ones in ``dtype`` (None: as stored).

    ``origin`` says where the file came from. Of a training dump, only the tensors for serving are kept: the averaged
    generator if there is one. Raises WeightsError if it is not a checkpoint, or contains more than tensors.
    """
    target = target or source.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} does not end in .safetensors: name the file to write so")
    chosen, tensors = _chosen(_unpickled(source))
    what = _recognised(source, tensors)
    ready = {name: _owned(tensor, dtype) for name, tensor in tensors.items()}
    for name, tensor in ready.items():
        require_finite(tensor, name, source)
    note = {
        "origin": origin or source.name,
        "source": source.name,
        "source_sha256": sha256(source),
        "chosen": chosen,
        "part": what,
    }
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:  # one key: the order of several varies, and with it the checksum
        save_file(ready, part, {ABOUT: json.dumps(note)})
        checksum = sha256(part)
        note_file(target).write_text(json.dumps({**note, "sha256": checksum}, indent=2) + "\n")
        part.replace(target)  # last, so that a file of this name is always complete
    except SafetensorError as error:  # how its library reports a full disk or a folder that is not writable
        raise WeightsError(f"{target} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return Converted(target, what, len(ready), checksum)


def note_file(target: Path) -> Path:
    """The path of the note with the checksums of a converted file."""
    return target.with_suffix(".origin.json")


def sha256(file: Path) -> str:
    """The file's SHA-256, as hex."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unpickled(source: Path) -> Any:
    if source.is_dir():
        inside = next((file for suffix in (".pt", ".pth") for file in sorted(source.rglob(f"*{suffix}"))), None)
        named = f", for example {inside}" if inside else "; this one has none"
        raise WeightsError(f"{source} is a folder: name a .pt or .pth file{named}")
    if not source.is_file():
        raise WeightsError(f"{source} is missing: name a .pt or .pth file")
    if source.suffix == ".safetensors":
        raise WeightsError(f"{source} is a safetensors file already: give it to --weights as it is")
    try:
        try:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # files of old versions cannot be mapped
                raise
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if foreign := UNSAFE.search(str(error)):
            reason = f"{source} contains more than tensors ({foreign[1]}), and Pafu runs no code from files"
            raise WeightsError(f"{reason}: take a checkpoint that holds tensors only") from error
        raise _no_checkpoint(source) from error
    except OSError as error:
        raise WeightsError(f"{source} cannot be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise _no_checkpoint(source) from error


def _no_checkpoint(source: Path) -> WeightsError:
    other = what_begins_so(first_bytes(source))
    return WeightsError(f"{source} {other or 'is damaged, half-downloaded or no checkpoint: download it again'}")


def _chosen(loaded: Any) -> tuple[str, dict[str, Tensor]]:
    """The tensors of a dump that are needed for serving, and the names of the containers around them."""
    opened = []
    while isinstance(loaded, Mapping):
        inner = next((name for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        opened.append(inner)
        loaded = loaded[inner]
    return ".".join(opened), dict(_tensors(loaded)) if isinstance(loaded, Mapping) else {}


def _tensors(loaded: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in loaded.items():
        if isinstance(value, Tensor):
            yield str(name), value


def _recognised(source: Path, tensors: dict[str, Tensor]) -> str:
    if is_lora(tensors):
        return "LoRA"
    found = recognise(tensors)
    if found is None:
        examples = ", ".join(repr(name) for name in sorted(tensors)[:3]) or "no tensor"
        raise WeightsError(
            f"{source} is not a part of the Wan2.1 family, which is all that Pafu serves: it contains {examples}"
        )
    return f"{found.layout.part} ({found.layout.name} layout)"


def _owned(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A dense tensor with its own memory, as safetensors needs it; copies only if necessary."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    given = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    dense = given.to(wanted).contiguous()
    return dense if dense.numel() * dense.element_size() == dense.untyped_storage().nbytes() else dense.clone()
