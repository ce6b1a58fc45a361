"""Promise: the shipped weights load, are small, and follow prompt and camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.config import CacheConfig
from model.camera import CameraControl
from model.distill.data.script import Script
from model.distill.data.tours import announced_tour_clip, tour
from model.distill.evaluation.evaluate import served_cache
from model.distill.evaluation.judge import camera_shifts
from model.distill.stages.salience_stage import student_rollout
from model.stream.video_stream import VideoStream
from model.weights import SHIPPED, LoadedModel, load_model

CACHE = CacheConfig(policy="sink_window", budget_latents=18, sink_latents=3, recent_latents=3, position_mode="relative")


@pytest.fixture(scope="module")
def mini() -> LoadedModel:
    torch.set_num_threads(2)
    return load_model("pafu-mini")


def film(model: LoadedModel, prompt: str, chunks: int, speed: int = 0, seed: int = 3) -> np.ndarray:
    stream = VideoStream(model, prompt, seed, CACHE)
    stream.set_camera(CameraControl(speed=speed))
    return np.concatenate([stream.next_chunk().pictures for _ in range(chunks)])


def test_all_shipped_files_together_stay_below_48_megabytes() -> None:
    assert sum(f.stat().st_size for f in SHIPPED["pafu-mini"].iterdir()) <= 48_000_000


def test_the_light_follows_the_words(mini: LoadedModel) -> None:
    brightness = {light: film(mini, f"a meadow at {light}", 1)[:, :40].mean() for light in ("night", "noon")}
    assert brightness["night"] < 0.5 * brightness["noon"]


def test_the_ground_follows_the_words(mini: LoadedModel) -> None:
    meadow, desert = (film(mini, f"a {ground} by day", 1)[:, 100:].mean((0, 1, 2)) for ground in ("meadow", "desert"))
    assert meadow[1] > meadow[0] and desert[0] > desert[1], "grass is green, sand is not"


@pytest.mark.parametrize("speed", [8, -8])
def test_the_picture_moves_as_the_camera_does(mini: LoadedModel, speed: int) -> None:
    pictures = film(mini, "a meadow by day, a red house in the middle", 4, speed)
    assert np.median(camera_shifts(pictures[12:])) == pytest.approx(4 * speed, abs=2)


def test_another_seed_is_another_place(mini: LoadedModel) -> None:
    one, other = (film(mini, "a meadow by day", 1, seed=seed).astype(int) for seed in (1, 2))
    assert np.abs(one - other).mean() > 2


def test_the_shipped_head_tells_landmarks_from_their_surroundings(mini: LoadedModel) -> None:
    """Area under the curve of the scores of tokens that show a landmark against those that show none; .5 is chance."""
    assert mini.salience is not None and mini.spec.cache_policy == "salient_retrieval"
    areas = []
    for n in range(3):
        clip = announced_tour_clip(n, 6)
        truth = tour(mini, clip)
        differs = (truth.views - truth.bare).abs().mean(1) * 127.5 > 30
        cell = mini.spec.pixels_per_column
        share = torch.nn.functional.avg_pool2d(differs[:, None].float(), cell).flatten()
        state = student_rollout(mini, Script.of_clip(clip, mini.spec), truth.truth, None).caches[0].snapshot()
        score = mini.salience(state["keys"], state["values"]).mean(0)
        shown, empty = score[share > 0.3], score[share == 0]
        areas.append(float((shown[:, None] > empty[None]).float().mean()))
    assert np.mean(areas) > 0.8, areas


def reddish(pictures: np.ndarray) -> float:
    """Share of pixels that are clearly red."""
    red, green, blue = np.moveaxis(pictures.astype(int), -1, 0)
    return float(((red > green + 60) & (red > blue + 60)).mean())


def bluish(pictures: np.ndarray) -> float:
    """Share of pixels below the sky that are clearly blue, and too dark for sky."""
    red, green, blue = np.moveaxis(pictures[:, 40:100].astype(int), -1, 0)
    return float(((blue > red + 60) & (blue > green + 60)).mean())


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.proof) for seed in (2, 3))])
def test_a_thing_that_is_named_later_appears_in_sight_and_the_rest_is_remembered(mini: LoadedModel, seed: int) -> None:
    mill, tower = (
        "a meadow by day, a red mill with a yellow roof in the middle",
        "a meadow by day, a blue tower with a blue roof in the middle",
    )
    stream = VideoStream(mini, mill, seed, served_cache(mini))

    def shown(prompt: str, place: int) -> np.ndarray:
        stream.set_prompt(prompt)
        stream.set_camera(CameraControl(speed=0, cut_to=place))
        return np.concatenate([stream.next_chunk().pictures for _ in range(2)])[-8:]

    first, _, second, again = shown(mill, 0), shown("a meadow by day", 3), shown(tower, 3), shown("a meadow by day", 0)
    assert reddish(first) > 0.03 and bluish(first) < 0.01
    assert bluish(second) > 0.05 and reddish(second) < 0.03
    assert reddish(again) > 0.03 and bluish(again) < 0.01
