"""Tours with known truth: does a stream still know what it saw long ago?

In an open tour a camera moves through a scene of five to six screens, with several far returns and cuts; prompts name
only ground and light. In an announced tour it visits one place after another, and returns only to those whose landmarks
the prompt named on the first visit: the prompt tells the future. In a called tour nothing is named on the first visit;
later, while the camera is elsewhere, the prompt names what is at an earlier place, and the camera returns there. On a
return the prompt names nothing, so only memory can restore a landmark. In a veiled tour the camera stays, and fog comes
and goes: what the cache holds of it is newer than the landmarks, and at the same places. The stream gets the true
latents of what was seen; its next pictures are compared with the truth, column by column, by how long a place was out
of view or in fog.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from model.camera import PLACE_STEP, SPEED_STEP, CameraControl, CameraState, advance, follow
from model.codec.vae import StreamingVAE, from_pictures
from model.distill.data.captions import GROUND_PHRASES, LIGHT_PHRASES, caption
from model.distill.data.dataset import HELD_OUT_SEED
from model.distill.data.script import Script
from model.distill.data.world import (
    CHUNK_LATENTS,
    FOG,
    WIDTH,
    Clip,
    Landmark,
    Scene,
    Segment,
    random_scene,
    render_views,
)
from model.spec import ModelSpec
from model.weights import LoadedModel
from model.words.vocabulary import LIGHTS

# Three disjoint splits: rules are tuned on the first, chosen on the second, and reported only on the third.
SPLITS = {"tune": 10, "choose": 11, "report": 12}
SEEDS_APART = 1000  # seeds per split; below it the splits stay disjoint
TOUR_SEED = HELD_OUT_SEED + SPLITS["report"]


def tour_seed(split: str, seed: int) -> int:
    """The first seed of a split's tours; ``seed`` 0 is the one reported in the documents."""
    return HELD_OUT_SEED + SPLITS[split] + SEEDS_APART * seed


REACH = 2.6 * WIDTH  # pixels from the start to either end: a world of six screens including the first view
FAR = 1.2 * WIDTH
RECENT_CHUNKS = 2
CUT_SHARE, RETURN_SHARE, HOLD_SHARE = 0.12, 0.6, 0.05
PACES = (12, 16)
VISIT_CHUNKS = 2  # length of a visit in an announced tour
VISIT_SPEEDS = (0, 0, SPEED_STEP, -SPEED_STEP)
CLEAR_CHUNKS, FOG_CHUNKS = 2, (3, 7)  # of a veiled tour, before and after; fog lasts at least, and less than
VISIT_SPACING = 1.5 * WIDTH  # pixels between places: no two are visible at once
MOST_ANNOUNCED = 3  # places of a tour that will be seen again, at least one
CALL = 0.8  # probability that a place is called back
MARGIN = 20  # pixels: things closer to the edge are not named
ANNOUNCE_FIRST, ANNOUNCE = 0.3, 0.5  # probabilities; returning to the start too often would favor a sink
NEW, RECENT, LONG = range(3)
SPANS = ("new", "recent", "long")
TOLERANCE = 30.0  # gray levels of 255, mean over the colors: a pixel that differs more is wrong


@dataclass(frozen=True)
class Tour:
    """One tour: F latent frames of H x W pictures.

    truth (F, C, h, w): latents. views and bare (F, 3, H, W): the autoencoder's pictures of the scene with and without
    its landmarks. spans (F, W): NEW, RECENT or LONG for every picture column.
    """

    script: Script
    truth: Tensor
    views: Tensor
    bare: Tensor
    spans: Tensor


def tour_controls(rng: np.random.Generator, chunks: int) -> list[CameraControl]:
    """One control per chunk: towards a goal, which is often a distant place seen before; sometimes a cut."""
    state, visited, controls = CameraState(), [0], []
    goal = _goal(rng, 0, visited)
    for chunk in range(chunks):
        if chunk > 2 and rng.random() < CUT_SHARE:
            place = PLACE_STEP * round(_goal(rng, state.offset, visited) / PLACE_STEP)
            control = CameraControl(speed=0, cut_to=place / WIDTH)
        elif rng.random() < HOLD_SHARE:
            control = CameraControl(speed=0)
        else:
            control = CameraControl(speed=_speed(rng, goal - state.offset))
        state, offsets, _ = advance(state.steered(control, WIDTH), CHUNK_LATENTS)
        visited.append(offsets[0])
        if abs(goal - state.offset) < WIDTH / 4 or abs(state.offset) > REACH:
            goal = _goal(rng, state.offset, visited)
        controls.append(control)
    return controls


def _goal(rng: np.random.Generator, here: int, visited: list[int]) -> int:
    far = [place for place in visited if abs(place - here) > FAR]
    if far and rng.random() < RETURN_SHARE:
        return int(rng.choice(far))
    side = -1 if here > 0 else 1
    return side * int(rng.uniform(0.3 * REACH, REACH))


def _speed(rng: np.random.Generator, distance: float) -> int:
    reach = SPEED_STEP * max(1, int(abs(distance)) // (CHUNK_LATENTS * 4 * SPEED_STEP))
    return int(np.sign(distance)) * min(int(rng.choice(PACES)), reach)


def tour_clip(n: int, chunks: int, seed: int = TOUR_SEED) -> Clip:
    """The n-th held-out tour as a clip of the training world."""
    rng = np.random.default_rng((seed, chunks, n))
    offsets, speeds = follow(tour_controls(rng, chunks), WIDTH, CHUNK_LATENTS)
    margin = 2 * WIDTH
    scene = random_scene(rng, min(offsets) - margin, max(offsets) + WIDTH + margin)
    light = str(rng.choice(LIGHTS))
    return Clip(scene, (Segment(0, light, _bare(scene, light)),), tuple(offsets), tuple(speeds))


def announced_clip(rng: np.random.Generator, chunks: int) -> Clip:
    """Visits of VISIT_CHUNKS chunks with a cut between them: each to a new place, or back to one whose landmarks were
    named and that was left at least two visits ago."""
    announced = int(rng.integers(1, MOST_ANNOUNCED + 1))
    places, visits = [0], [0]
    named = [0] if rng.random() < ANNOUNCE_FIRST else []
    offsets, speeds = _visit(0, int(rng.choice(VISIT_SPEEDS)))
    while len(offsets) < chunks * CHUNK_LATENTS:
        back = [place for place in named if place not in visits[-2:]]
        if back and rng.random() < RETURN_SHARE:
            place = int(rng.choice(back))
        else:
            place = len(places)
            places.append(place)
            if len(named) < announced and rng.random() < ANNOUNCE:
                named.append(place)
        visits.append(place)
        o, s = _visit(_stand(rng, place), int(rng.choice(VISIT_SPEEDS)))
        offsets, speeds = offsets + o, speeds + s
    offsets, speeds = offsets[: chunks * CHUNK_LATENTS], speeds[: chunks * CHUNK_LATENTS]
    margin = 64 + WIDTH
    scene = random_scene(rng, min(offsets) - margin, max(offsets) + WIDTH + margin)
    light, segments = str(rng.choice(LIGHTS)), []
    for number, place in enumerate(visits):
        first = number * VISIT_CHUNKS
        names = place in named and place not in visits[:number]
        view = offsets[first * CHUNK_LATENTS : (first + VISIT_CHUNKS) * CHUNK_LATENTS]
        segments.append(Segment(first, light, caption(rng, scene, light, view) if names else _bare(scene, light)))
    return Clip(scene, tuple(segments), tuple(offsets), tuple(speeds))


def called_clip(rng: np.random.Generator, chunks: int) -> Clip:
    """Visits as in ``announced_clip``, but nothing is named on the first visit: while the camera is at a new place, the
    prompt names what is at an earlier one. The camera returns only to places that were called in this way."""
    stands, visits = {0: 0}, [0]
    called: dict[int, int] = {}  # place -> the visit during which it was named
    offsets, speeds = _visit(0, int(rng.choice(VISIT_SPEEDS)))
    while len(offsets) < chunks * CHUNK_LATENTS:
        back = [place for place in called if place not in visits[-2:]]
        if back and rng.random() < RETURN_SHARE:
            place = int(rng.choice(back))
        else:
            place = max(stands) + 1
            old = [other for other in stands if other not in visits[-2:] and other not in called]
            if old and len(called) < MOST_ANNOUNCED and rng.random() < CALL:
                called[int(rng.choice(old))] = len(visits)
        visits.append(place)
        stands.setdefault(place, _stand(rng, place))
        o, s = _visit(stands[place], int(rng.choice(VISIT_SPEEDS)))
        offsets, speeds = offsets + o, speeds + s
    offsets, speeds = offsets[: chunks * CHUNK_LATENTS], speeds[: chunks * CHUNK_LATENTS]
    margin = 64 + WIDTH
    scene = random_scene(rng, min(offsets) - margin, max(offsets) + WIDTH + margin)
    light, segments = str(rng.choice(LIGHTS)), []
    for number in range(len(visits)):
        named = [stands[place] for place, visit in called.items() if visit == number]
        words = [_bare(scene, light), *(_spoken(mark) for stand in named for mark in _in_sight(scene, stand))]
        segments.append(Segment(number * VISIT_CHUNKS, light, ", ".join(words)))
    return Clip(scene, tuple(segments), tuple(offsets), tuple(speeds))


def veiled_clip(rng: np.random.Generator, chunks: int) -> Clip:
    """Places one after another, with a cut between them: at each fog comes, hides everything for three to six chunks,
    and goes."""
    stands, weathers = list[int](), list[str | None]()
    while len(weathers) < chunks:
        fog = int(rng.integers(*FOG_CHUNKS))
        stay = [None] * CLEAR_CHUNKS + [FOG] * fog + [None] * CLEAR_CHUNKS
        stands += [_stand(rng, len(set(stands)))] * len(stay)
        weathers += stay
    offsets = [stand for stand in stands[:chunks] for _ in range(CHUNK_LATENTS)]
    scene = random_scene(rng, min(offsets) - WIDTH, max(offsets) + 2 * WIDTH)
    light, segments = str(rng.choice(LIGHTS)), list[Segment]()
    bare = _bare(scene, light)
    for chunk, weather in enumerate(weathers[:chunks]):
        segments.append(Segment(chunk, light, f"{bare} in fog", FOG) if weather else Segment(chunk, light, bare))
    return Clip(scene, tuple(segments), tuple(offsets), (0,) * len(offsets))


def _stand(rng: np.random.Generator, place: int) -> int:
    """The camera's position at a place (pixels): on both sides of the start, never twice at the same pixel."""
    side = 1 if place % 2 else -1
    stand = side * VISIT_SPACING * ((place + 1) // 2) + PLACE_STEP * int(rng.integers(-2, 3))
    return PLACE_STEP * round(stand / PLACE_STEP)


def _in_sight(scene: Scene, stand: int) -> list[Landmark]:
    return [mark for mark in scene.landmarks if MARGIN <= mark.x - stand <= WIDTH - MARGIN]


def _spoken(mark: Landmark) -> str:
    return f"a {mark.colour} {mark.kind}" + (f" with a {mark.accent} roof" if mark.accent else "")


def _visit(place: int, speed: int) -> tuple[list[int], list[int]]:
    """Offsets and speeds of the latent frames of one visit, which begins with a cut to ``place`` (pixels)."""
    state = CameraState().steered(CameraControl(speed=speed, cut_to=place / WIDTH), WIDTH)
    _, offsets, speeds = advance(state, VISIT_CHUNKS * CHUNK_LATENTS)
    return offsets, speeds


def _bare(scene: Scene, light: str) -> str:
    """A prompt that names no landmark."""
    return f"{GROUND_PHRASES[scene.ground]} {LIGHT_PHRASES[light]}"


def announced_tour_clip(n: int, chunks: int, seed: int = TOUR_SEED) -> Clip:
    """The n-th held-out announced tour."""
    return announced_clip(np.random.default_rng((seed, chunks, n, 1)), chunks)


def called_tour_clip(n: int, chunks: int, seed: int = TOUR_SEED) -> Clip:
    """The n-th held-out tour with called places."""
    return called_clip(np.random.default_rng((seed, chunks, n, 2)), chunks)


def veiled_tour_clip(n: int, chunks: int, seed: int = TOUR_SEED) -> Clip:
    """The n-th held-out veiled tour."""
    return veiled_clip(np.random.default_rng((seed, chunks, n, 3)), chunks)


@torch.no_grad()
def tour(model: LoadedModel, clip: Clip) -> Tour:
    """A clip's script, and the truth for its pictures."""
    spec = model.spec
    script = Script.of_clip(clip, spec)
    bare = dataclasses.replace(clip, scene=dataclasses.replace(clip.scene, landmarks=()))
    truth, empty = (_encoded(model, each) for each in (clip, bare))
    hidden = {chunk for chunk in range(script.chunks) if clip.segment_of(chunk).weather == FOG}
    return Tour(script, truth.cpu(), shown(model, truth), shown(model, empty), spans(script.views(spec), spec, hidden))


def _encoded(model: LoadedModel, clip: Clip) -> Tensor:
    pictures = from_pictures(torch.from_numpy(render_views(clip))).to(model.device, model.dtype)
    return cast(StreamingVAE, model.vae).encode(pictures).float()


@torch.no_grad()
def shown(model: LoadedModel, latents: Tensor) -> Tensor:
    """Latents (F, C, h, w) as pictures (F, 3, H, W) float32 in about [-1, 1], on the CPU."""
    return cast(StreamingVAE, model.vae).view(latents.to(model.device, model.dtype)).float().cpu()


def spans(views: list[int], spec: ModelSpec, hidden: Collection[int] = ()) -> Tensor:
    """(F, W): for every column of every view, how long its place was out of view before its chunk began. In ``hidden``
    chunks nothing is seen."""
    last_seen: dict[int, int] = {}
    out = torch.zeros(len(views), spec.width, dtype=torch.int8)
    for chunk in range(len(views) // spec.chunk_latents):
        frames = range(chunk * spec.chunk_latents, (chunk + 1) * spec.chunk_latents)
        for frame in frames:
            seen = [last_seen.get(x, -1) for x in range(views[frame], views[frame] + spec.width)]
            when = torch.tensor(seen)
            out[frame] = torch.where(when < 0, NEW, torch.where(when >= chunk - RECENT_CHUNKS, RECENT, LONG))
        for frame in () if chunk in hidden else frames:
            last_seen.update(dict.fromkeys(range(views[frame], views[frame] + spec.width), chunk))
    return out


def long_asked(tour: Tour, frames: slice) -> bool:
    """Whether any of ``frames`` shows a landmark that was out of view for long."""
    there = _differ(tour.views[frames], tour.bare[frames])
    return bool((there & (tour.spans[frames] == LONG)[:, None, :]).any())


def long_error(drawn: Tensor, tour: Tour, frames: slice) -> tuple[float, int]:
    """MIND's lcm: squared error in gray levels, summed over all values of columns out of view for long, and their
    number."""
    levels = (drawn.clamp(-1, 1) - tour.views[frames].clamp(-1, 1)) * 127.5
    seen = (tour.spans[frames] == LONG)[:, None, None, :].expand_as(levels)
    return float(levels[seen].square().sum()), int(seen.sum())


def compare(drawn: Tensor, tour: Tour, frames: slice) -> dict[str, tuple[int, int, int, int]]:
    """For each span: correctly drawn landmark pixels, landmark pixels, and the intersection and union with landmark
    pixels drawn where there are none. drawn (f, 3, H, W) are the pictures of ``frames``."""
    truth, bare = tour.views[frames], tour.bare[frames]
    there, drawn_there = _differ(truth, bare), _differ(drawn, bare)
    right = there & ~_differ(drawn, truth)
    out = {}
    for span, name in enumerate(SPANS):
        columns = (tour.spans[frames] == span)[:, None, :]
        counts = (right & columns, there & columns, right & columns, (there | drawn_there) & columns)
        out[name] = tuple(int(count.sum()) for count in counts)
    return out  # type: ignore[return-value]


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """(f, H, W): pixels that differ."""
    return (a.clamp(-1, 1) - b.clamp(-1, 1)).abs().mean(1) * 127.5 > TOLERANCE
