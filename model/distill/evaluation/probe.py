"""The probe: a small network, trained on rendered truth, that recognizes what a picture shows.

It judges generated video, so it is not trained on generated pictures; blur and noise simulate their faults. For each of
``CELLS`` columns it predicts which landmark has its middle there (or none) and its colors; for the whole picture, the
light and the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.codec.vae import from_pictures
from model.distill.data.clips import random_clip
from model.distill.data.dataset import HELD_OUT_SEED
from model.distill.data.world import CHUNK_LATENTS, HEIGHT, PICTURES_PER_LATENT, WIDTH, Clip, Scene, render_clip
from model.distill.training.stage import Losses, Stage
from model.words.vocabulary import COLOURS, GROUNDS, KINDS, LIGHTS

SEED = 3003
SHIPPED_PROBE = Path(__file__).parents[2] / "weights_mini" / "probe.safetensors"
CELLS = 16
CELL = WIDTH // CELLS
MARGIN = 20  # a landmark whose middle is closer to the edge is cut off and not judged
SURE = 0.5


@dataclass(frozen=True)
class Seen:
    """A landmark found by the probe, with its middle at screen column x (pixels)."""

    kind: str
    colour: str
    accent: str | None
    x: float
    confidence: float


class Probe(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.body = nn.Sequential()
        for narrow, wide in zip(widths, widths[1:], strict=False):
            self.body.extend([nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.BatchNorm2d(wide), nn.ReLU()])
        rows = HEIGHT // 16
        self.columns = nn.Sequential(
            nn.Conv2d(128, 192, (rows, 3), padding=(0, 1)),
            nn.ReLU(),
            nn.Conv2d(192, 1 + len(KINDS) + 2 * len(COLOURS), 1),
        )
        self.whole = nn.Linear(128 * rows, len(LIGHTS) + len(GROUNDS))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures (N, 3, H, W) in [-1, 1] to logits: kind (N, 1+kinds, CELLS), color and accent (N, colors, CELLS),
        light (N, lights), ground (N, grounds)."""
        x = self.body(pictures)
        kind, colour, accent = self.columns(x)[:, :, 0].split([1 + len(KINDS), len(COLOURS), len(COLOURS)], 1)
        light, ground = self.whole(x.mean(3).flatten(1)).split([len(LIGHTS), len(GROUNDS)], 1)
        return {"kind": kind, "colour": colour, "accent": accent, "light": light, "ground": ground}

    @torch.inference_mode()
    def read(self, pictures: np.ndarray) -> list[Reading]:
        """What each of the uint8 pictures (N, H, W, 3) shows."""
        out = self(from_pictures(torch.from_numpy(pictures)))
        return [_reading({name: value[i] for name, value in out.items()}) for i in range(len(pictures))]


def save_probe(probe: Probe, path: Path) -> None:
    """Write the probe in fp16."""
    tensors = {name: each.half() if each.is_floating_point() else each for name, each in probe.state_dict().items()}
    save_file({name: each.contiguous() for name, each in tensors.items()}, path)


def shipped_probe() -> Probe:
    """The probe that ships with pafu-mini."""
    probe = Probe()
    probe.load_state_dict(load_file(SHIPPED_PROBE))
    return probe.eval()


@dataclass(frozen=True)
class Reading:
    """What the probe found in one picture."""

    landmarks: tuple[Seen, ...]
    light: str
    ground: str


def _reading(logits: dict[str, Tensor]) -> Reading:
    kinds = logits["kind"].softmax(0)  # (1 + kinds, CELLS)
    present = 1 - kinds[0]
    found = []
    for cell in range(CELLS):
        around = present[max(0, cell - 1) : cell + 2]
        if present[cell] > SURE and present[cell] == around.max():
            kind = KINDS[int(kinds[1:, cell].argmax())]
            accent = COLOURS[int(logits["accent"][:, cell].argmax())] if kind in ("house", "tower", "mill") else None
            colour = COLOURS[int(logits["colour"][:, cell].argmax())]
            found.append(Seen(kind, colour, accent, (cell + 0.5) * CELL, float(present[cell])))
    return Reading(tuple(found), LIGHTS[int(logits["light"].argmax())], GROUNDS[int(logits["ground"].argmax())])


# ---------------------------------------------------------------------------------------------- training


def labels(scene: Scene, light: str, offset: int) -> dict[str, np.ndarray]:
    """Targets of one picture; -100 where there is no target."""
    kind = np.zeros(CELLS, np.int64)
    colour, accent = np.full(CELLS, -100), np.full(CELLS, -100)
    for mark in scene.landmarks:
        x = mark.x - offset
        if -CELL <= x < WIDTH + CELL:
            cell = min(CELLS - 1, max(0, x // CELL))
            if not MARGIN <= x <= WIDTH - MARGIN:
                kind[cell] = -100
                continue
            kind[cell] = 1 + KINDS.index(mark.kind)
            colour[cell] = COLOURS.index(mark.colour)
            accent[cell] = COLOURS.index(mark.accent) if mark.accent else -100
    return {
        "kind": kind,
        "colour": colour,
        "accent": accent,
        "light": np.array(LIGHTS.index(light)),
        "ground": np.array(GROUNDS.index(scene.ground)),
    }


def settled_pictures(clip: Clip) -> list[tuple[int, str, int]]:
    """(picture, light, offset) of the pictures without a change of light."""
    per_chunk = CHUNK_LATENTS * PICTURES_PER_LATENT
    rows = []
    for index in range(len(clip.offsets) * PICTURES_PER_LATENT):
        latent, part = divmod(index, PICTURES_PER_LATENT)
        segment = clip.segment_of(index // per_chunk)
        if segment is clip.segments[0] or index // per_chunk > segment.first_chunk:
            rows.append((index, segment.light, clip.offsets[latent] + part * clip.speeds[latent]))
    return rows


def labelled_pictures(seed: int, index: int, clips: int, each: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Random settled pictures of random clips, uint8 (clips*each, H, W, 3), with their targets."""
    rng = np.random.default_rng((seed, index))
    pictures, targets = [], []
    for _ in range(clips):
        clip = random_clip(rng, chunks=3)
        rendered, rows = render_clip(clip), settled_pictures(clip)
        for choice in rng.choice(len(rows), size=each):
            picture, light, offset = rows[choice]
            pictures.append(rendered[picture])
            targets.append(labels(clip.scene, light, offset))
    return torch.from_numpy(np.stack(pictures)), {
        k: torch.from_numpy(np.stack([t[k] for t in targets])) for k in targets[0]
    }


def spoiled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Adds blur and noise, like those of generated pictures, to half of the batch."""
    half = pictures[::2]
    small = F.interpolate(half, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, size=half.shape[-2:], mode="bilinear")
    out = pictures.clone()
    out[::2] = blurred + 0.06 * torch.randn(half.shape, generator=generator)
    return out


def probe_stage(folder: Path, steps: int) -> Stage:
    """Train the probe."""
    torch.manual_seed(SEED)
    probe = Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=1e-3)

    def loss(step: int) -> Losses:
        pictures, targets = labelled_pictures(SEED, step, clips=8, each=4)
        generator = torch.Generator().manual_seed(SEED + step)
        out = probe(spoiled(from_pictures(pictures), generator))
        losses = {name: F.cross_entropy(out[name], targets[name]) for name in out}
        return {"loss": sum(losses.values(), torch.zeros(())), **losses}

    return Stage("probe", folder, nn.ModuleDict({"probe": probe}), [optimizer], loss, steps, every=100)


def probe_accuracy(probe: Probe, clips: int = 100) -> dict[str, float]:
    """Share of held-out landmarks whose kind, color and accent are read correctly (each, and all three at once), and
    of pictures whose light and ground are."""
    probe.eval()
    pictures, targets = labelled_pictures(HELD_OUT_SEED, 1, clips=clips, each=4)
    right: dict[str, list[bool]] = {"kind": [], "colour": [], "accent": [], "landmark": [], "light": [], "ground": []}
    for start in range(0, len(pictures), 50):
        with torch.inference_mode():
            out = {k: v.argmax(1) for k, v in probe(from_pictures(pictures[start : start + 50])).items()}
        truth = {k: v[start : start + 50] for k, v in targets.items()}
        marked = truth["kind"] > 0
        hit = {name: (out[name] == truth[name])[marked] for name in ("kind", "colour", "accent")}
        hit["accent"] = hit["accent"] | (truth["accent"][marked] == -100)
        right["landmark"] += (hit["kind"] & hit["colour"] & hit["accent"]).tolist()
        for name in ("kind", "colour", "accent"):
            right[name] += hit[name].tolist()
        for name in ("light", "ground"):
            right[name] += (out[name] == truth[name]).tolist()
    return {name: float(np.mean(values)) for name, values in right.items()}
