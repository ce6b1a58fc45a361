"""Promise: between two views, planes move at their own speeds, and uncovered areas come from the view that shows
them."""

import numpy as np
import torch

from model.codec.planes import PLANES, View, between, nearest_plane
from model.distill.world2 import random_clip, render_pictures, render_views

HEIGHT, WIDTH = 4, 64


def scene(camera: int) -> View:
    """A post on the nearest plane in front of a striped wall on the main one, seen by a camera at ``camera``."""
    wall, post = PLANES.index(1.0), len(PLANES) - 1
    columns = torch.arange(WIDTH)
    picture = ((columns + camera) % 7 / 7).expand(3, HEIGHT, WIDTH).clone()
    plane = torch.full((HEIGHT, WIDTH), wall, dtype=torch.uint8)
    at = (columns >= 30 - round(PLANES[post] * camera)) & (columns < 38 - round(PLANES[post] * camera))
    picture[..., at], plane[:, at] = -1.0, post
    return View(picture, plane)


def test_the_post_covers_and_uncovers_the_wall_exactly_as_the_scene_does() -> None:
    before, now = scene(0), scene(8)
    for share, camera in ((0.25, 2), (0.5, 4), (0.75, 6)):
        torch.testing.assert_close(between(before, now, (8, 0), share), scene(camera).picture)


def test_parallaxes_near_a_plane_belong_to_it() -> None:
    assert nearest_plane(torch.tensor([-0.2, 0.1, 0.47, 0.98, 2.0])).tolist() == [0, 1, 3, 5, 6]


def test_pictures_between_true_views_are_nearer_to_the_truth_than_a_sliding_or_fading_picture() -> None:
    rng = np.random.default_rng(3)
    clip = random_clip(rng, 2)
    while abs(clip.speeds[4][0]) < 10 or (np.diff(clip.offsets, axis=0) != 4 * clip.speeds[1:]).any():
        clip = random_clip(rng, 2)
    truth = torch.from_numpy(render_pictures(clip)[4 * 4 : 4 * 5]).movedim(-1, 1).float()
    drawn = render_views(clip)
    pictures = torch.from_numpy(drawn["views"][3:5]).movedim(-1, 1).float()
    planes = nearest_plane(torch.from_numpy(drawn["parallax"][3:5]))
    before, now = (View(*pair) for pair in zip(pictures, planes, strict=True))
    motion = tuple(float(4 * s) for s in clip.speeds[4])
    for part in range(3):
        made = between(before, now, motion, (part + 1) / 4)
        faded = (before.picture * (3 - part) + now.picture * (part + 1)) / 4
        flat = torch.full_like(now.plane, PLANES.index(1.0))
        slid = between(View(before.picture, flat), View(now.picture, flat), motion, (part + 1) / 4)
        error, fade, slide = ((p - truth[part]).square().mean() for p in (made, faded, slid))
        assert error < fade / 2 and error < slide / 2
