"""Weights from the Hugging Face hub in Pafu's own cache folder: pinned revisions, resumed downloads, offline use.

The hub's library does the work, and reads HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE. The first pulled revision stays in
use until another one is pulled. No torch here.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.checkpoints.errors import WeightsError
from model.spec import SPECS, WAN_BASE, WAN_PARTS, ModelSpec, Source

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CACHE_VARIABLE = "PAFU_HUB_CACHE"
PINS = "revisions.json"
WHOLE = ("*.safetensors", "*.json", "spiece.model", "*/spiece.model")  # downloaded from a repository that no spec names
PICKLES = (".pt", ".pth")
FILES = (*PICKLES, ".safetensors", ".ckpt", ".bin", ".gguf")


@dataclass(frozen=True)
class Wanted:
    """Files of a repository at a revision; None: the pinned one, or the newest."""

    repo: str
    files: tuple[str, ...]
    revision: str | None = None


def cache_folder() -> Path:
    """The folder for pulled weights. Raises WeightsError for a user without a home folder who names none."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path(home) / "pafu" / "hub")
    if str(folder).startswith("~"):
        raise WeightsError(f"{folder}: this user has no home folder; set {CACHE_VARIABLE} to a folder for weights")
    return folder


def is_hub_id(weights: str) -> bool:
    """Whether this is ``owner/name`` or ``owner/name@revision``, and neither an existing path nor a file's name."""
    name = weights.partition("@")[0]
    return bool(HUB_ID.fullmatch(name)) and not Path(weights).exists() and Path(name).suffix not in FILES


def wanted(name: str) -> list[Wanted]:
    """The downloads for a model's name or a hub id, including text encoder and VAE. Raises WeightsError."""
    repo, _, revision = name.partition("@")
    if repo in SPECS:
        source = SPECS[repo].source
        if source is None:
            raise WeightsError(f"model {repo!r} has no weights to pull: {_pullable()}")
        return [Wanted(source.repo, source.files, revision or None), *_base_of(source)]
    if not HUB_ID.fullmatch(repo):
        raise WeightsError(f"{name!r} is neither a model nor an owner/name of the hub; {_pullable()}")
    sources = [spec.source for spec in SPECS.values() if spec.source and spec.source.repo == repo]
    files = tuple(dict.fromkeys(file for source in sources for file in source.files)) or WHOLE
    bases = {base.repo: base for source in sources for base in _base_of(source)}
    return [Wanted(repo, files, revision or None), *bases.values()]


def name_of(weights: str, spec: ModelSpec) -> str:
    """What to pull for a hub id: the model, if it is the model's own repository, of which it may need a few files only;
    else the id."""
    repo, at, revision = weights.partition("@")
    return f"{spec.name}{at}{revision}" if spec.source and spec.source.repo == repo else weights


def pull(each: Wanted) -> Path:
    """Download into the cache folder, or resume a download, and pin the revision; returns the folder of the files.

    Raises WeightsError, in one line: no network, no such repository or revision, no access.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    revision = each.revision or pinned(each.repo)
    try:
        folder = Path(
            snapshot_download(
                each.repo, revision=revision, cache_dir=cache_folder(), allow_patterns=list(each.files), max_workers=4
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(f"{each.repo} {_why_not_pulled(error, revision)}") from error
    _pin(each.repo, folder.name)
    _check_complete(each, folder)
    return folder


def _why_not_pulled(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "is gated: accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision!r}: name another one after the @"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is not on the hub, or is private: check its name; for a private one set HF_TOKEN"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        offline = "HF_HUB_OFFLINE is set" if isinstance(cause, errors.OfflineModeIsEnabled) else None
        why = offline or ("the hub cannot be reached" if status is None else f"the hub fails with status {status}")
        otherwise = f"pull it on a machine with a network and copy {cache_folder()}, or set {CACHE_VARIABLE}"
        return f"is not downloaded, and {why}: {otherwise if status is None else 'try again later'}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"cannot be pulled: {reason}; the same command resumes the download"


def pinned(repo: str) -> str | None:
    """The pinned commit, or None."""
    try:
        pins = json.loads((cache_folder() / PINS).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WeightsError(f"{cache_folder() / PINS} cannot be read: {error}; delete it and pull again") from error
    found: str | None = pins.get(repo)
    return found


def pulled(each: Wanted) -> Path | None:
    """The folder of a complete download; None if it was never pulled. Raises WeightsError if the download is
    incomplete."""
    repo = cache_folder() / f"models--{each.repo.replace('/', '--')}"
    revision = each.revision or pinned(each.repo)
    named = repo / "refs" / (revision or "main")
    if named.is_file():
        revision = named.read_text().strip()
    if revision is None or not (repo / "snapshots" / revision).is_dir():
        if any(repo.glob("blobs/*.incomplete")):
            raise _half(each)
        return None
    _check_complete(each, repo / "snapshots" / revision)
    return repo / "snapshots" / revision


def locate(weights: str, spec: ModelSpec) -> Path:
    """The file or folder of ``weights``, a path or a hub id, without using the network. Raises WeightsError."""
    if not is_hub_id(weights):
        return Path(weights)
    repo, _, revision = weights.partition("@")
    source = spec.source if spec.source and spec.source.repo == repo else None
    files = source.files if source else wanted(weights)[0].files
    folder = pulled(Wanted(repo, files, revision or None))
    if folder is None:
        raise WeightsError(f"{weights} is no path, and was not pulled yet: run `pafu pull {name_of(weights, spec)}`")
    if source is None or any("*" in file for file in source.files):
        return folder
    converted = [_as_served(folder / file) for file in source.files]
    for file in converted:
        if not file.is_file():
            pull_again = f"run `pafu pull {name_of(weights, spec)}` again"
            raise WeightsError(f"{weights} is downloaded but not converted: {pull_again}")
    return converted[0] if len(converted) == 1 else converted[0].parent


def base_of(spec: ModelSpec) -> Path | None:
    """The pulled repository with the family's text encoder and VAE, or None."""
    return pulled(Wanted(spec.source.base or spec.source.repo, WAN_PARTS)) if spec.source else None


def pickles(each: Wanted, folder: Path) -> Iterator[Path]:
    """Files that ``pafu convert`` must convert."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in PICKLES and _matches(file, folder, each.files) and not _as_served(file).is_file():
            yield file


def _as_served(file: Path) -> Path:
    return file.with_suffix(".safetensors") if file.suffix in PICKLES else file


def _base_of(source: Source) -> list[Wanted]:
    return [Wanted(WAN_BASE, WAN_PARTS)] if source.base else []


def _matches(file: Path, folder: Path, patterns: tuple[str, ...]) -> bool:
    name = file.relative_to(folder).as_posix()
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _check_complete(each: Wanted, folder: Path) -> None:
    """Raises WeightsError if a pattern of ``each`` matches no file, or a file is empty."""
    files = [file for file in folder.rglob("*") if not file.is_dir()]
    torn = [file for file in files if not file.exists()]  # a dangling link
    absent = (
        []
        if each.files == WHOLE
        else [pattern for pattern in each.files if not any(_matches(file, folder, (pattern,)) for file in files)]
    )
    if torn:
        raise _half(each)
    if absent:
        raise WeightsError(f"{each.repo} lacks {absent[0]}: run `pafu pull {each.repo}`, which resumes the download")


def _half(each: Wanted) -> WeightsError:
    return WeightsError(f"the download of {each.repo} is incomplete: run `pafu pull {each.repo}`, which resumes it")


def _pin(repo: str, revision: str) -> None:
    file = cache_folder() / PINS
    pins = json.loads(file.read_text()) if file.is_file() else {}
    new = file.with_suffix(".part")
    new.write_text(json.dumps({**pins, repo: revision}, indent=2, sort_keys=True) + "\n")
    new.replace(file)


def _pullable() -> str:
    return f"models that can be pulled: {', '.join(spec.name for spec in SPECS.values() if spec.source)}"
