"""The salience head (S-MLP): one small network per layer that predicts how much the future will need a token.

It reads a token's key and value from the clean pass, un-rotated; both are linear in the normalized hidden state and are
cached anyway. A head is one safetensors file beside its student and names the student that it was distilled for. A
student may have several heads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.finite import is_finite
from model.spec import ModelSpec

FORMAT = 1
ABOUT = "pafu"  # the only metadata key: with several, their order would vary and equal heads would give different files
HEAD_FILE = "salience.safetensors"  # the file of the head that loads with its student
ANEW = "copy it again, or distil another head (pafu distill salience)"
WIDTHS_PER_DIM = 16  # model width per hidden width: keeps the head below 1 % of the parameters


class SalienceError(ValueError):
    """A head is missing, damaged, or belongs to another student; the message names the file and the difference."""


class Named(nn.Module):
    """Base class of heads: knows the name of its model."""

    model: str


H = TypeVar("H", bound="Named")


class SalienceHead(Named):
    """Maps keys and values (layers, n, H, D) to scores (layers, n) in (0, 1); each layer has its own weights."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.model = spec.name
        layers, inputs, hidden = spec.num_layers, 2 * spec.dim, max(4, spec.dim // WIDTHS_PER_DIM)
        self.weight1 = nn.Parameter(torch.randn(layers, inputs, hidden) / inputs**0.5)
        self.bias1 = nn.Parameter(torch.zeros(layers, 1, hidden))
        self.weight2 = nn.Parameter(torch.randn(layers, hidden, 1) / hidden**0.5)
        self.bias2 = nn.Parameter(torch.zeros(layers, 1, 1))

    def logits(self, keys: Tensor, values: Tensor) -> Tensor:
        """Scores before the sigmoid: (layers, n) float32."""
        flat = (keys.flatten(2), values.flatten(2))
        parts = [F.rms_norm(part, part.shape[-1:]) for part in flat]
        x = torch.cat(parts, -1).to(self.weight1.dtype)
        hidden = F.gelu(torch.baddbmm(self.bias1, x, self.weight1))
        return torch.baddbmm(self.bias2, hidden, self.weight2).squeeze(-1).float()

    def score(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """One layer of ``forward``: keys and values (n, H, D) to scores (n,)."""
        parts = [F.rms_norm(part.flatten(1), (part.shape[1] * part.shape[2],)) for part in (keys, values)]
        x = torch.cat(parts, -1).to(self.weight1.dtype)
        hidden = F.gelu(torch.addmm(self.bias1[layer], x, self.weight1[layer]))
        return torch.addmm(self.bias2[layer], hidden, self.weight2[layer]).squeeze(-1).float().sigmoid()

    def forward(self, keys: Tensor, values: Tensor) -> Tensor:
        return self.logits(keys, values).sigmoid()


def save_head(path: Path, head: Named, digest: str, trained_steps: int) -> None:
    """Write the head of the student whose weights have ``digest`` (LoadedModel.student)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in head.state_dict().items()}
    about = {"format": FORMAT, "model": head.model, "student": digest, "trained_steps": trained_steps}
    about["sha256"] = tensors_digest(tensors)
    save_file(tensors, path, {ABOUT: json.dumps(about)})


def load_head(path: Path, spec: ModelSpec, digest: str, make: Callable[[ModelSpec], H] = SalienceHead) -> H:  # type: ignore[assignment]
    """Load a head of the kind that ``make`` builds from ``path``, in float32. Raises SalienceError unless it was
    distilled for this student."""
    about, tensors = _read(path)
    if "format" not in about:
        raise SalienceError(f"{path} is no salience head: make one for this student with `pafu distill salience`")
    for name, wanted in (("format", FORMAT), ("model", spec.name), ("student", digest)):
        if about.get(name) != wanted:
            raise SalienceError(
                f"{path} is a salience head of {name} {_short(about.get(name))}, this student has {_short(wanted)}: "
                "distil one for it (pafu distill salience) or name the folder that the head belongs to"
            )
    if about.get("sha256", found := tensors_digest(tensors)) != found:  # heads of earlier versions have no checksum
        raise SalienceError(f"{path} does not match its own sha256: the file is damaged; {ANEW}")
    if damaged := next((name for name, tensor in tensors.items() if not is_finite(tensor)), None):
        raise SalienceError(f"{path}: tensor {damaged!r} contains NaN or infinity: {ANEW}")
    head = make(spec)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        raise SalienceError(
            f"{path} holds tensors {shapes}, but a head of model {spec.name!r} needs {expected}; {ANEW}"
        )
    head.load_state_dict(tensors)
    return head.eval().requires_grad_(False)


def head_steps(path: Path) -> int:
    """The number of training steps of the head in ``path``. Raises SalienceError."""
    return int(str(_read(path)[0]["trained_steps"]))


def _read(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    if not path.is_file():
        raise SalienceError(f"{path} is missing: train a head with `pafu distill salience` or name another file")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
        return about if isinstance(about, dict) else {}, load_file(path)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise SalienceError(f"{path} is truncated or no safetensors file: {error}; {ANEW}") from error


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names and values, independent of their order."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _short(value: object) -> str:
    return "none" if value is None else repr(value[:12]) if isinstance(value, str) else str(value)
