"""Promise: the literature's memory measures are correct, on videos with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from model.distill.evaluation import measures
from model.distill.evaluation.compare import MIRRORED, SAME_VIEW, mirror_row, mirror_script
from model.distill.evaluation.judge import judge_prompts
from model.distill.evaluation.revisits import SIMILARITIES, Pairs, gains, mirrored, pairs_of
from model.spec import PAFU_MINI

VIEWS = [*range(0, 300, 10), *range(290, -10, -10)]  # thirty pictures away and back again


def world() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (16, 400, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def filmed(views: list[int], forget_after: int | None = None) -> np.ndarray:
    """What a camera at ``views`` sees; after a given number of pictures the world is another."""
    other = np.random.default_rng(1).integers(0, 255, (16, 400, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    shown = [other if forget_after is not None and i >= forget_after else world() for i in range(len(views))]
    return np.stack([scene[:, view : view + 64] for scene, view in zip(shown, views, strict=True)])


def test_pairs_are_revisits_others_as_far_apart_and_neighbours() -> None:
    found = pairs_of(VIEWS, near=1)
    assert found.revisits and all(VIEWS[i] == VIEWS[j] and j - i >= 12 for i, j in found.revisits)
    assert all(later > earlier for pair in (found.baseline, found.short) for earlier, later in pair)
    ends = {end for pair in found.revisits for end in pair}
    assert all(i not in ends and j not in ends and VIEWS[i] != VIEWS[j] for i, j in found.baseline)
    assert {j - i for i, j in found.short} == {2, 3, 4, 5, 6}
    assert pairs_of([0, 10, 20], near=1).revisits == ()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_video_that_remembers_gains_and_one_that_forgets_does_not(name: str) -> None:
    views = [*VIEWS, *range(0, -100, -10)]  # and on to places that are seen once: the baseline
    moved = [view + 100 for view in views]
    pairs = pairs_of(moved, near=1)
    remembered = gains(filmed(moved), pairs, SIMILARITIES[name])
    forgotten = gains(filmed(moved, forget_after=30), pairs, SIMILARITIES[name])
    assert remembered[0] > 4 * abs(forgotten[0]), "what is the same again"


def test_a_still_video_gains_nothing() -> None:
    views = [*VIEWS, *range(0, -100, -10)]
    still = np.repeat(filmed([0]), len(views), 0)
    assert gains(still, pairs_of(views, near=1), measures.psnr) == (0, 0)


def test_a_mirrored_path_is_compared_with_itself_reversed() -> None:
    pictures = filmed(VIEWS)
    assert mirrored(pictures, VIEWS, 1, measures.psnr) == 60
    assert mirrored(pictures, VIEWS, 1, SIMILARITIES["ssim"]) == pytest.approx(1)
    assert mirrored(filmed(VIEWS, forget_after=30), VIEWS, 1, measures.psnr) < 15
    assert np.isnan(mirrored(pictures[:30], VIEWS[:30], 1, measures.psnr)), "no way back"


def test_a_path_back_at_another_pace_is_compared_place_by_place() -> None:
    """The evaluation's own path: the camera slows down at its turn, so pictures as far from it in time show other
    places."""
    places = mirror_script(judge_prompts(1)[0], PAFU_MINI.width).places(PAFU_MINI)
    assert len(places) == 12 * len(MIRRORED) and max(places) > 3 * PAFU_MINI.width
    assert mirrored(np.array(places)[:, None], places, SAME_VIEW, lambda a, b: -abs(float(a.item() - b.item()))) > -4
    pairs = pairs_of(places, SAME_VIEW)
    assert pairs.revisits and pairs.baseline and all(abs(places[i] - places[j]) <= SAME_VIEW for i, j in pairs.revisits)


def test_gains_are_those_computed_by_hand() -> None:
    """Thirteen pictures, the twelfth at the first one's place; their likeness is minus the distance of their values."""
    values = [8, *range(1, 11), 9, 12]
    pairs = pairs_of([*range(0, 1100, 100), 0, 2000], near=1)
    assert pairs.revisits == ((0, 11),) and (len(pairs.baseline), len(pairs.short)) == (55, 45)
    pictures = np.array(values, np.int16)[:, None, None, None]
    gain, span = gains(pictures, pairs, lambda a, b: -abs(float(a.item()) - float(b.item())))
    assert gain == pytest.approx(-1 + 230 / 55) and span == pytest.approx(-160 / 45 + 230 / 55)
    assert (
        mirrored(np.array([0, 3, 5, 1])[:, None], [0, 1, 1, 0], 0, lambda a, b: -abs(float(a.item() - b.item())))
        == -1.5
    )


def test_videos_share_one_normalised_gain_and_those_without_revisits_have_none() -> None:
    nothing = gains(filmed([0, 10]), Pairs((), (), ()), measures.psnr)
    assert np.isnan(nothing).all()
    found = {"gain_psnr": [(1.0, 2.0), (3.0, 2.0), nothing], "gain_ssim": [], "mirrored_psnr": [], "mirrored_ssim": []}
    row = mirror_row({**found, "flicker": []})
    assert row["nmr_psnr"] and row["nmr_psnr"].mean == pytest.approx((1 + 3) / (2 + 2))
    assert row["mg_psnr"] and row["mg_psnr"].mean == 2 and row["nmr_ssim"] is None


def test_flicker_and_drift_have_their_conventions() -> None:
    still = np.zeros((20, 4, 4, 3), np.uint8)
    assert measures.flicker(still) == 1 and measures.flicker(np.stack([still[0], still[0] + 255])) == 0
    brighter = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    assert measures.ends_apart(brighter, lambda part: float(part.mean())) == 17, "the first three and the last three"
