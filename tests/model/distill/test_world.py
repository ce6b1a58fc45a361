"""The training world: what is drawn is what the scene says, and captions claim only what is true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.camera import CameraControl, CameraState, advance
from model.distill.captions import in_view, place_of
from model.distill.dataset import HELD_OUT_SEED, TRAIN_SEED, Clips, clip_of
from model.distill.judge import judge_prompts, shift_between
from model.distill.world import GROUND_Y, RGB, TINT, WIDTH, Clip, Landmark, Scene, Segment, render_clip
from model.grammar import describe
from model.spec import PAFU_MINI
from model.text import phrase_ids
from model.vocabulary import unknown_words


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
            assert unknown_words(segment.prompt) == []


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


def test_a_cut_arrives_at_its_place_at_rest():
    state = CameraState(offset=500, speed=8, target=8).steered(CameraControl(cut_to=-1.5), WIDTH)
    _, offsets, speeds = advance(state, 3)
    assert offsets == [-384, -384, -384] and speeds == [0, 0, 0]
