"""Finds safetensors files in a folder and groups them by part: transformer, text encoder, VAE, LoRA.

Only headers are read here. A tensor's bytes are mapped when it is read, one tensor at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.errors import WeightsError
from model.checkpoints.layouts import Layout, is_lora, recognise
from model.finite import is_finite
from model.transformer.salience import HEAD_FILE

SHARD = re.compile(r"-(\d+)-of-(\d+)$")
PICKLED = (".pt", ".pth", ".ckpt", ".bin")
HALF_DOWNLOADED = (".incomplete", ".part", ".tmp", ".aria2")
INDEX = ".safetensors.index.json"
PIECE, PIECES = 64 * 1024, 64  # bytes and number of the samples in a fingerprint


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"  # as safetensors calls it

    @property
    def floating(self) -> bool:
        return self.dtype.startswith(("F", "BF"))

    def read(self) -> Tensor:
        """The tensor's values."""
        with safe_open(self.file, "pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
            return tensor


@dataclass(frozen=True)
class Part:
    """The tensors of one part by our names, and their files."""

    layout: Layout
    tensors: dict[str, Stored]
    files: tuple[Path, ...]

    @property
    def where(self) -> str:
        """The file or folder, for messages."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


@dataclass(frozen=True)
class Lora:
    """The tensors of a LoRA file."""

    file: Path
    tensors: dict[str, Stored]


PART_FOLDERS = ("text_encoder", "vae")  # diffusers' names


@dataclass(frozen=True)
class Contents:
    """The parts by kind, and the LoRAs, found in a folder or file."""

    parts: dict[str, list[Part]]
    loras: list[Lora]
    pickled: list[Path]


def survey(path: Path) -> Contents:
    """Examine ``path``, a safetensors file or a folder of them. Raises WeightsError."""
    if not path.exists():
        raise WeightsError(f"{path} is missing: name a folder, a .safetensors file or a repository of the hub")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise WeightsError(f"{path} cannot be read: Permission denied; let this user read it")
    if path.is_file() and path.suffix in PICKLED:
        raise WeightsError(f"{path} is a pickle, which can run code: convert it once with `pafu convert {path}`")
    if path.is_file() and path.suffix in HALF_DOWNLOADED:
        raise _incomplete(path)
    if path.name.endswith(INDEX):
        raise WeightsError(f"{path} only lists the files of a checkpoint: name its folder, {path.parent}")
    files = _shards(path) if path.is_file() else sorted(path.rglob("*.safetensors"))
    _check_indices(path)
    contents = Contents(defaultdict(list), [], [] if path.is_file() else _pickled(path.rglob("*")))
    for group in _grouped(file for file in files if file.name != HEAD_FILE):
        _sort_in(group, contents)
    if path.is_dir() and (torn := [each for each in path.rglob("*") if each.suffix in HALF_DOWNLOADED]):
        raise _incomplete(torn[0])
    return contents


def _shards(file: Path) -> list[Path]:
    """The file, and the other shards of its checkpoint."""
    if not SHARD.search(file.stem):
        return [file]
    name = SHARD.sub("", file.stem)
    return sorted(each for each in file.parent.glob("*.safetensors") if SHARD.sub("", each.stem) == name)


def _incomplete(file: Path) -> WeightsError:
    return WeightsError(f"the download of {file} is incomplete: run it again, it resumes")


def _check_indices(folder: Path) -> None:
    """Raise WeightsError if an index in ``folder`` names a file that is not there."""
    for index in sorted(folder.rglob(f"*{INDEX}")):
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index} cannot be read: {type(error).__name__}; download it again") from error
        absent = sorted(name for name in map(str, named) if not (index.parent / name).is_file())
        if absent and not index.with_name(index.name.removesuffix(INDEX) + ".safetensors").is_file():
            reason = f"{index.parent / absent[0]} is missing: the download is incomplete"
            raise WeightsError(f"{reason}: run it again, it resumes")


def survey_beside(file: Path) -> Contents:
    """Look for other parts beside ``file``: in its folder, and in the folders named after parts there, or next to a
    folder called transformer. Everything else is ignored: the file may lie in a home folder. Raises WeightsError."""
    if not file.exists():
        raise WeightsError(f"{file} is missing: name a folder, a .safetensors file or a repository of the hub")
    root = file.parent.parent if file.parent.name == "transformer" else file.parent
    folders = (file.parent, *(root / name for name in PART_FOLDERS))
    found = sorted(each for folder in folders for each in folder.glob("*.safetensors") if each.name != HEAD_FILE)
    contents = Contents(defaultdict(list), [], _pickled(each for folder in folders for each in folder.glob("*")))
    own = _shards(file)
    for group in _grouped(each for each in found if each not in own):
        _sort_in(group, contents)
    return contents


def header(file: Path) -> dict[str, Stored]:
    """The tensors in a safetensors file. Raises WeightsError for a truncated or invalid file."""
    try:
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            slices = {name: opened.get_slice(name) for name in names}
            return {n: Stored(file, n, tuple(each.get_shape()), each.get_dtype()) for n, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} {_why_unreadable(file, error)}") from error


OTHERS = {  # what a file begins with: what it is, and what to do
    b"GGUF": "is a GGUF file: take the safetensors of the same checkpoint",
    b"version https://git-lfs": "is only a pointer of Git LFS: run `git lfs pull`, or download the file itself",
    b"<": "is a web page: download the file itself",
    b"{": "is JSON, perhaps the error message of a server: download the file itself",
}
PICKLES_BEGIN = {
    b"PK\x03\x04": "is a pickle or another zip file with a wrong name: if it is a checkpoint, end its name in .pt and "
    "convert it once with `pafu convert`",
    b"\x80": "is a pickle with a wrong name, which can run code: end its name in .pt and convert it once with "
    "`pafu convert`",
}


def _why_unreadable(file: Path, error: Exception) -> str:
    try:
        begins, size = first_bytes(file), file.stat().st_size
    except OSError as denied:
        return f"cannot be read: {denied.strerror}"
    if int.from_bytes(begins[:8], "little") <= size:  # the length of a safetensors header may look like anything
        begins = b""
    other = what_begins_so(begins, OTHERS | PICKLES_BEGIN)
    return other or (f"is truncated or no safetensors file ({size:,} bytes): {error}; download it again")


def first_bytes(file: Path) -> bytes:
    """Enough of the file to tell what it is."""
    with file.open("rb") as opened:
        return opened.read(32)


def what_begins_so(begins: bytes, kinds: dict[bytes, str] = OTHERS) -> str | None:
    """What a file is that is none of weights, and what to do; None: nobody knows."""
    return next((what for sign, what in kinds.items() if begins.lstrip().startswith(sign)), None)


def require_finite(tensor: Tensor, name: str, where: object) -> None:
    """Raise WeightsError if ``tensor``, called ``name`` in the file ``where``, has a value that is not finite."""
    if not is_finite(tensor):
        raise WeightsError(
            f"{where}: tensor {name!r} contains NaN or infinity, so nothing could be drawn: the file is damaged or its "
            "training failed; download it again, or take another checkpoint"
        )


def fingerprint(files: list[Path]) -> str:
    """A digest that identifies a set of weights: headers, sizes and samples, independent of the files' order."""
    return hashlib.sha256("".join(sorted(_sampled(file) for file in files)).encode()).hexdigest()


def _sampled(file: Path) -> str:
    size, digest = file.stat().st_size, hashlib.sha256()
    digest.update(size.to_bytes(8, "little"))
    with file.open("rb") as opened:
        head = opened.read(8)
        digest.update(head + opened.read(int.from_bytes(head, "little")))
        for piece in range(PIECES):
            opened.seek(size * piece // PIECES)
            digest.update(opened.read(PIECE))
    return digest.hexdigest()


def _pickled(files: Iterable[Path]) -> list[Path]:
    """The pickles among ``files`` without a converted file beside them."""
    found = sorted(file for file in files if file.suffix in PICKLED)
    return [file for file in found if not file.with_suffix(".safetensors").exists()]


def _grouped(files: Iterator[Path]) -> list[list[Path]]:
    """Groups files into checkpoints: the shards of one belong together."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in files:
        groups[file.parent, SHARD.sub("", file.stem)].append(file)
    for group in groups.values():
        shard = SHARD.search(group[0].stem)
        if shard and len(group) < int(shard[2]):
            there = {int(SHARD.search(file.stem)[1]) for file in group}  # type: ignore[index]
            absent = min(set(range(1, int(shard[2]) + 1)) - there)
            name = SHARD.sub(f"-{absent:0{len(shard[1])}}-of-{shard[2]}", group[0].stem)
            raise WeightsError(
                f"{group[0].parent / name}.safetensors is missing: the download is incomplete: run it again"
            )
    return list(groups.values())


def _sort_in(group: list[Path], contents: Contents) -> None:
    tensors = {name: stored for file in group for name, stored in header(file).items()}
    if is_lora(tensors):
        contents.loras.append(Lora(group[0], tensors))
        return
    found = recognise(tensors)
    if found is None:
        examples = ", ".join(repr(name) for name in sorted(tensors)[:3])
        contents.parts["unknown"].append(Part(Layout("unknown", examples, ""), tensors, tuple(group)))
        return
    named = {ours: tensors[there] for ours, there in found.names.items()}
    contents.parts[found.layout.part].append(Part(found.layout, named, tuple(group)))
