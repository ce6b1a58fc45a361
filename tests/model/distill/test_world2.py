"""Promise: in the second training world, pictures, ground truth and prompts agree."""

from __future__ import annotations

import numpy as np
import pytest

from model.distill.world2 import prompts_by_chunk, random_clip, render_pictures, render_views
from model.distill.world2.captions import sights
from model.distill.world2.catalogue import KIND, accented
from model.distill.world2.draw import PAINTERS, sprite_of
from model.distill.world2.paths import Clip
from model.distill.world2.render import Painter
from model.distill.world2.scene import Scene, Thing, random_scene
from model.distill.world2.size import CHUNK_LATENTS, HIGHEST, LAYER, LAYERS, LOWEST, MAX_SPEED, REACH
from model.words.grammar2 import describe
from model.words.text2 import SYMBOLS, phrase_ids
from model.words.vocabulary2 import COLOURS, EXAMPLES, KINDS, LEXICON

ORIGIN = np.zeros(2)


def clip_of(index: int, chunks: int = 4) -> Clip:
    return random_clip(np.random.default_rng((5, index)), chunks)


def thing(identity: int, kind: str, layer: str, x: int, colour: str = "red", size: float = 1.0) -> Thing:
    base = round(LAYER[layer].ground_y) + 12
    return Thing(identity, kind, colour, "blue" if accented(kind) else None, layer, x, base, size, 1, 7)


def scene_of(*things: Thing) -> Scene:
    return Scene(3, "meadow", "clear", things, ((0.0, 500.0, 0.0),))


def middle_column(identity: np.ndarray, wanted: int) -> float:
    return float(np.nonzero(identity == wanted)[1].mean())


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others():
    first, again, other = (render_views(clip_of(i, 2)) for i in (1, 1, 2))
    for name in ("views", "parallax", "identity"):
        assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first["views"], other["views"])


def test_a_view_is_the_last_picture_of_its_latent_frame():
    clip = clip_of(3, 2)
    assert np.array_equal(render_views(clip)["views"], render_pictures(clip)[3::4])


@pytest.mark.parametrize("name", [layer.name for layer in LAYERS])
def test_a_layer_moves_by_its_parallax(name):
    painter = Painter(scene_of(thing(0, "lamp", name, 300)))
    here, there = (painter.view(np.array([x, 0.0]), "day", 0) for x in (0, 100))
    moved = middle_column(here.identity, 0) - middle_column(there.identity, 0)
    assert round(moved, 6) == round(100 * LAYER[name].parallax)
    assert np.unique(painter.parallax(here)[here.identity == 0]) == np.float16(LAYER[name].parallax)


def test_nearer_things_cover_and_uncover_others_and_the_ground_truth_has_it():
    far, near = thing(0, "house", "main", 256), thing(1, "bush", "near", 256, "green", 2.5)
    alone = Painter(scene_of(far)).view(ORIGIN, "day", 0)
    painter = Painter(scene_of(far, near))
    covered = painter.view(ORIGIN, "day", 0)
    house = alone.identity == 0
    hidden = house & (covered.identity == 1)
    assert hidden.sum() > 0.2 * house.sum()
    assert (covered.identity[house & ~hidden] == 0).all()
    assert (painter.parallax(covered)[hidden] == np.float16(LAYER["near"].parallax)).all()
    away = painter.view(np.array([200.0, 0.0]), "day", 0)
    assert (away.identity == 0).sum() > 0.95 * house.sum()


def test_a_higher_identity_is_painted_later():
    things = random_scene(np.random.default_rng(8), "meadow").things
    assert [t.identity for t in things] == list(range(len(things)))
    order = [layer.name for layer in LAYERS]
    depths = [(order.index(t.layer), t.base) for t in things]
    assert depths == sorted(depths)


def test_identity_marks_the_pixels_that_the_thing_changes():
    with_it, without = (Painter(scene_of(*t)).view(ORIGIN, "day", 0) for t in ((thing(0, "church", "main", 200),), ()))
    changed = (np.asarray(with_it.image) != np.asarray(without.image)).any(-1)
    assert changed[with_it.identity == 0].mean() > 0.99
    assert not (with_it.identity[~changed] == 0).any()


def test_a_place_that_the_camera_returns_to_looks_the_same():
    scene = random_scene(np.random.default_rng(4), "lake", "cloudy")
    painter = Painter(scene)
    first = painter.view(np.array([200.0, 8.0]), "day", 5)
    painter.view(np.array([-900.0, 0.0]), "night", 9)
    again = painter.view(np.array([200.0, 8.0]), "day", 5)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    later = painter.view(np.array([200.0, 8.0]), "day", 400)
    assert (later.identity == first.identity).mean() > 0.97
    assert (np.asarray(later.image) != np.asarray(first.image)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_painter_and_is_drawn_in_its_colour(kind):
    assert set(PAINTERS) == set(KINDS) == set(KIND)
    pictures = [np.asarray(sprite_of(thing(0, kind, "main", 0, c)).rgb, int) for c in COLOURS]
    solid = sprite_of(thing(0, kind, "main", 0)).solid
    assert solid.sum() > 150
    for one, other in zip(pictures, pictures[1:], strict=False):
        assert (abs(one - other)[solid].sum(-1) > 60).mean() > 0.12


@pytest.mark.proof
def test_captions_claim_only_what_is_there():
    for index in range(12):
        clip = clip_of(index, 6)
        truth = render_views(clip)
        there = {(t.kind, t.colour, t.accent) for t in clip.scene.things}
        for chunk, prompt in enumerate(prompts_by_chunk(np.random.default_rng(index), clip)):
            said = describe(prompt)
            assert LEXICON.unknown(prompt) == []
            assert said.ground in (clip.scene.ground, None) and said.weather in (clip.scene.weather, None)
            latent = chunk * CHUNK_LATENTS
            in_sight = {(s.thing.kind, s.thing.colour, s.place) for s in sights(clip, latent)}
            for one in said.things:
                assert any(one.kind == k and one.colour in (c, None) and one.accent in (a, None) for k, c, a in there)
                if one.colour and one.place in ("left", "middle", "right"):
                    assert (one.kind, one.colour, one.place) in in_sight
            for sight in sights(clip, latent):
                assert (truth["identity"][latent] == sight.thing.identity).any(), (index, chunk, sight)


def test_only_what_was_seen_is_called_back_and_what_is_ahead_was_not():
    called = ahead = 0
    for index in range(15):
        clip = clip_of(index, 8)
        for chunk, prompt in enumerate(prompts_by_chunk(np.random.default_rng(index), clip)):
            before = [s.thing for latent in range(chunk * CHUNK_LATENTS) for s in sights(clip, latent)]
            seen = {(t.kind, t.colour) for t in before}
            for one in describe(prompt).things:
                if one.place == "back" and one.colour:
                    called += 1
                    assert (one.kind, one.colour) in seen
                if one.place == "ahead" and one.colour:
                    ahead += (one.kind, one.colour) not in seen
    assert called > 10 and ahead > 10


def test_the_camera_keeps_its_limits_and_speeds_are_what_moves_it():
    for index in range(20):
        clip = clip_of(index, 8)
        assert (abs(clip.offsets[:, 0]) <= REACH).all() and (abs(clip.speeds[:, 0]) <= MAX_SPEED).all()
        assert (clip.offsets[:, 1] >= HIGHEST).all() and (clip.offsets[:, 1] <= LOWEST).all()
        moved = np.diff(clip.offsets, axis=0)
        cut = abs(moved - 4 * clip.speeds[1:]).max(1) > 0
        assert (np.nonzero(cut)[0] % CHUNK_LATENTS == CHUNK_LATENTS - 1).all()


def test_phrases_keep_things_apart():
    ids = phrase_ids("a snowy night turning to morning, a red house with a blue roof on the left, back to the mill", 12)
    rows = [
        [SYMBOLS[pair] if pair else 0 for pair in row]
        for row in (
            (("light", "night"), None, ("ground", "snow"), ("later", "morning"), None),
            (("kind", "house"), ("colour", "red"), ("accent", "blue"), ("place", "left"), None),
            (("kind", "mill"), None, None, ("place", "back"), None),
        )
    ]
    assert ids.shape == (12, 5)
    assert ids[:3].tolist() == rows and not ids[3:].any()


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_examples_are_known_words(prompt):
    assert LEXICON.unknown(prompt) == []
