"""Promise: the training world draws what the scene says, and captions claim only what is true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.camera import CameraControl, CameraState, advance
from model.distill.data.captions import in_view, place_of
from model.distill.data.dataset import HELD_OUT_SEED, TRAIN_SEED, Batch, Clips, clip_of, said, said_tensors, stretches
from model.distill.data.holdout import reserved
from model.distill.data.world import (
    FOG,
    GROUND_Y,
    RGB,
    TINT,
    WIDTH,
    Clip,
    Landmark,
    Scene,
    Segment,
    render_clip,
    render_views,
)
from model.distill.evaluation.judge import judge_prompts, shift_between
from model.spec import PAFU_MINI
from model.words.grammar import describe
from model.words.text import phrase_ids
from model.words.vocabulary import LEXICON


def scene_of(*landmarks: Landmark, ground: str = "meadow") -> Scene:
    return Scene(1, ground, -400, 1400, landmarks, (), ((0.0, 400.0, 0.0),))


def still_clip(scene: Scene, light: str = "day", offsets: tuple[int, ...] = (0, 0, 0)) -> Clip:
    return Clip(scene, (Segment(0, light, ""),), offsets, (0,) * len(offsets))


def test_a_landmark_is_drawn_where_the_scene_has_it_in_its_colour_under_the_light():
    for light in ("day", "night"):
        house = Landmark("house", "red", "blue", 100)
        pictures = render_clip(still_clip(scene_of(house), light, (0, 0, 60)))
        wall = tuple(round(c * t) for c, t in zip(RGB["red"], TINT[light], strict=True))
        for picture, x in ((pictures[0], 100), (pictures[-1], 40)):
            assert tuple(picture[GROUND_Y - 25, x - 10]) == wall


def test_the_same_index_gives_the_same_clip_and_another_index_another():
    first, again, other = (render_clip(clip_of(TRAIN_SEED, index))[:5] for index in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_camera_that_returns_sees_the_same_picture_again():
    scene = scene_of(Landmark("tower", "green", "pink", 120), Landmark("tree", "red", None, 500))
    pictures = render_clip(still_clip(scene, "day", (0, 300, 0)))
    assert np.array_equal(pictures[0], pictures[-1])
    assert not np.array_equal(pictures[0], pictures[4])


def test_a_detailed_picture_shows_the_same_world_with_finished_landmarks():
    clip = still_clip(scene_of(Landmark("house", "red", "blue", 100)))
    plain, detailed = render_views(clip)[0].astype(float), render_views(clip, 2)[0].astype(float)
    apart = np.abs(detailed.reshape(plain.shape[0], 2, WIDTH, 2, 3).mean((1, 3)) - plain).max(-1)
    assert detailed.shape == (2 * plain.shape[0], 2 * WIDTH, 3)
    assert apart[:, 170:].max() <= 2, "hills, sky and ground"
    assert 0.1 < (apart[GROUND_Y - 60 : GROUND_Y, 70:130] > 12).mean() < 0.8, "tiles, bars and shade"


def test_fog_comes_over_a_chunk_hides_everything_and_leaves_it_as_it_was():
    scene = scene_of(Landmark("tower", "red", "blue", 100), Landmark("pine", "green", None, 200))
    segments = (Segment(0, "day", ""), Segment(1, "day", "", FOG), Segment(3, "day", ""))
    views = render_views(Clip(scene, segments, (0,) * 12, (0,) * 12)).astype(float)
    assert all(np.array_equal(view, views[0]) for view in (*views[1:3], *views[11:]))
    assert np.abs(views[3] - views[0]).max() > np.abs(views[3] - views[5]).max() / 4, "it comes slowly"
    assert np.ptp(views[6:9], axis=2).max() == 0, "only fog: every row has one color"


@pytest.mark.parametrize("speed", [-16, -4, 0, 8, 16])
def test_the_camera_moves_by_its_speed_in_every_picture(speed):
    state, offsets, speeds = advance(CameraState(speed=speed, target=speed), 3)
    scene = scene_of(Landmark("house", "red", "blue", 60), Landmark("pine", "white", None, 190))
    clip = Clip(scene, (Segment(0, "day", ""),), tuple(offsets), tuple(speeds))
    pictures = render_clip(clip)
    assert shift_between(pictures[0], pictures[4]) == 4 * speed
    assert state.offset == 3 * 4 * speed


def test_captions_name_only_what_the_clip_shows():
    for index in range(40):
        clip = clip_of(HELD_OUT_SEED, index)
        for position, segment in enumerate(clip.segments):
            ends = [s.first_chunk for s in clip.segments[position + 1 :]] or [len(clip.offsets) // 3]
            offsets = clip.offsets[segment.first_chunk * 3 : ends[0] * 3]
            true = {(m.kind, m.colour) for m, _ in in_view(clip.scene, list(offsets))}
            said = describe(segment.prompt)
            assert {(t.kind, t.colour) for t in said.things if t.colour} <= true
            assert {t.kind for t in said.things} <= {kind for kind, _ in true}
            assert said.light in (segment.light, None) and said.ground in (clip.scene.ground, None)
            assert LEXICON.unknown(segment.prompt) == []


def test_places_are_thirds_of_the_picture():
    assert [place_of(x) for x in (0, 40, WIDTH / 2, WIDTH - 40, WIDTH)] == [None, "left", "middle", "right", None]


def test_prompts_for_judging_are_never_trained_on(tmp_path):
    judged = [c.prompt for c in judge_prompts(64)]
    captions = [clip_of(TRAIN_SEED, index, 1).segments[0].prompt for index in range(64)]
    ids = torch.stack([phrase_ids(prompt, PAFU_MINI.text_len) for prompt in judged + captions])[:, None]
    rows = {name: torch.zeros(len(ids), 3, 1) for name in ("latents", "offsets", "control", "lights")}
    save_file(rows | {"ids": ids.to(torch.uint8)}, tmp_path / "clips-00000.safetensors")
    clips = Clips(tmp_path)
    trained = clips.at(torch.arange(len(clips))).ids
    assert 40 < len(trained) <= 64
    assert not any((trained == one).flatten(1).all(1).any() for one in ids[:64])


def drawn_clips(count: int = 40) -> Batch:
    """Real prompts and lights; as latents, speeds and offsets the number of each frame."""
    rows = [said_tensors(clip_of(TRAIN_SEED, index), np.random.default_rng(index)) for index in range(count)]
    ids, lights = (torch.stack([row[name].long() for row in rows]) for name in ("ids", "lights"))
    frames = torch.arange(ids.shape[1] * 3.0).expand(count, -1)
    return Batch(frames[:, :, None, None, None], ids, frames, frames[:, :, None], lights)


def test_a_prompt_holds_until_the_next_one_and_a_new_light_is_always_in_it():
    could = drawn_clips()
    told = said(np.random.default_rng(1), could)
    assert torch.equal(told.ids[:, 0], could.ids[:, 0])
    same_as_could = (told.ids == could.ids).flatten(2).all(2)
    same_as_before = (told.ids[:, 1:] == told.ids[:, :-1]).flatten(2).all(2)
    turned = could.lights[:, 1:] != could.lights[:, :-1]
    assert turned.any() and same_as_could[:, 1:][turned].all()
    assert (same_as_could[:, 1:] | same_as_before).all()
    kept = (same_as_before & ~same_as_could[:, 1:]).float().mean()
    assert 0.2 < kept < 0.7, "all prompts are said, or hardly any"


def test_a_stretch_is_a_part_of_its_clip_with_the_words_that_belong_to_it():
    whole = drawn_clips()
    part = stretches(np.random.default_rng(2), whole, 2)
    firsts = part.offsets[:, 0].long()
    assert len(firsts.unique()) == 7 and (firsts % 3 == 0).all()
    for row, first in enumerate(firsts):
        for name in ("latents", "control", "offsets"):
            assert torch.equal(getattr(part, name)[row], getattr(whole, name)[row, first : first + 6])
        assert torch.equal(part.ids[row], whole.ids[row, first // 3 : first // 3 + 2])


def test_later_prompts_are_often_silent_and_none_is_kept_for_judging():
    ids = drawn_clips().ids
    assert not bool(reserved(ids).any())
    things = ids[..., 1:, :].flatten(2).any(2)
    assert 0.1 < 1 - float(things[:, 1:].float().mean()) < 0.5


def test_a_cut_arrives_at_its_place_at_rest():
    state = CameraState(offset=500, speed=8, target=8).steered(CameraControl(cut_to=-1.5), WIDTH)
    _, offsets, speeds = advance(state, 3)
    assert offsets == [-384, -384, -384] and speeds == [0, 0, 0]
