"""What ``pafu distill`` and ``pafu eval`` share: options, the checks before the work, and loading a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model import gpu
from server.cli.console import fail
from server.ipc.messages import Parts

if TYPE_CHECKING:
    import torch

    from model.spec import ModelSpec
    from model.weights import LoadedModel

NO_PARTS = Parts()
BESIDE = {"text_encoder": "--text-encoder", "vae": "--vae", "salience_head": "--head"}  # options by part
EXTRA = "the training recipes need more packages: run pip install -e '.[distill]'"


@dataclass(frozen=True)
class PartOptions:
    """The model's other files and its picture size."""

    text_encoder: Annotated[Path | None, typer.Option(help="text encoder file; default: next to the weights")] = None
    vae: Annotated[Path | None, typer.Option(help="VAE file; default: next to the weights")] = None
    size: Annotated[str | None, typer.Option(help="video size, as 832x480; default: the model's own")] = None

    def parts(self) -> Parts:
        """Raises SpecError for an invalid size."""
        from model.spec import size_of

        text, video = (None if part is None else str(part) for part in (self.text_encoder, self.vae))
        return Parts(text_encoder=text, vae=video, size=None if self.size is None else size_of(self.size))


@dataclass(frozen=True)
class DeviceOptions:
    """Where the work is done."""

    device: Annotated[str, typer.Option(help="cpu, cuda, or one GPU of several, like cuda:1")] = "cpu"
    threads: Annotated[int, typer.Option(min=0, help="torch threads; 0 uses all cores")] = 0


def prepare(where: DeviceOptions) -> None:
    """Check the packages and the device, and set torch threads; exits with one line on a problem."""
    try:
        import matplotlib  # noqa: F401  # an extra that the recipes need
    except ImportError as error:
        raise fail(f"{error.name} is missing; {EXTRA}") from None
    import torch

    from server.process import usable_cores

    torch.set_num_threads(where.threads or usable_cores())
    check_device(where.device)


def check_device(name: str) -> None:
    """Exit with one line if the device does not exist."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise fail(f"device {name!r} is unknown; allowed: cpu, cuda, or one GPU of several, like cuda:1", 2)
    if name == "cpu":
        return
    number, there = int(name.partition(":")[2] or 0), gpu.count()
    if not there:
        raise fail(f"device {name!r} was requested, but {gpu.why_none()}; or use --device cpu")
    if number >= there:
        raise fail(f"device {name!r} was requested, but torch sees {there} GPUs, counted from 0")


def known(name: str, size: tuple[int, int] | None = None) -> ModelSpec:
    """The spec of a model, at another picture size. Raises SpecError for an unknown name, an unfit size, and for one
    that only the codec draws in more detail: heads and figures belong to the latents."""
    from model.spec import SpecError, spec_named

    spec = spec_named(name) if size is None else spec_named(name).at(*size)
    if spec.detail > 1:
        same = f"{spec.view_width}x{spec.view_height}, which has the same latents"
        raise SpecError(f"model {name!r}: size: this command knows the true pictures at {same}: leave the size out")
    return spec


def load_for_work(
    name: str,
    folder: Path | None,
    device: torch.device,
    head: Path | None = None,
    dtype: torch.dtype | None = None,
    parts: Parts = NO_PARTS,
    heads: bool = True,
) -> LoadedModel:
    """Load a model for training or evaluation, in float32 by default, as training needs; its heads only if a policy
    may need them (``heads``).

    Models with random weights need no folder.
    """
    import torch

    from model.checkpoints import hub
    from model.spec import RANDOM_WEIGHTS
    from model.weights import load_model, load_parts, random_model, require_own_parts
    from server.worker.generator import beside

    spec, dtype = known(name, parts.size), dtype or torch.float32
    near = beside(parts, spec)
    if name in RANDOM_WEIGHTS and folder is None:
        require_own_parts(spec, near, "random weights")
        return random_model(spec, 0, device, dtype)
    place = hub.locate(str(folder), spec) if folder else None
    if place is not None and not heads:
        return load_parts(spec, place, device, dtype, near)
    return load_model(spec, place, device, dtype, head, near)


@contextmanager
def options_named(called: Mapping[str, str]) -> Iterator[None]:
    """A WeightsError in this block begins with the option at fault; ``called``: options by part."""
    from model.weights import WeightsError

    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{called[error.part]}: {error}", error.part) from error
