"""The dimensions of the second world, for a picture 512 wide, times SCALE."""

from __future__ import annotations

from dataclasses import dataclass

from model.spec import PAFU_MINI

SCALE = 1.0  # 0.75 for pictures of 384 x 192
WIDTH, HEIGHT = round(512 * SCALE), round(256 * SCALE)
PICTURES_PER_LATENT = PAFU_MINI.temporal_stride
CHUNK_LATENTS = PAFU_MINI.chunk_latents
PICTURES_PER_CHUNK = PICTURES_PER_LATENT * CHUNK_LATENTS

MAX_SPEED = round(32 * SCALE)  # pixels per picture
MAX_RISE = round(4 * SCALE)  # pixels per picture, up or down
MAX_ACCELERATION = round(16 * SCALE)  # pixels per picture, gained or lost per latent frame
HIGHEST, LOWEST = -round(40 * SCALE), round(48 * SCALE)  # range of the camera; y grows downwards
REACH = 3.0 * WIDTH  # maximum distance of the camera from its start: seven screens including the first view

HORIZON = 112 * SCALE  # the row of infinitely distant things, wherever the camera is
DEPTH_OF_GROUND = 86 * SCALE  # a layer's ground begins at HORIZON + parallax * DEPTH_OF_GROUND


@dataclass(frozen=True)
class Layer:
    """A plane of the world. parallax: pixels that it moves per pixel of camera motion; scale: size of the things on
    it."""

    name: str
    parallax: float
    scale: float
    waviness: float  # units, of its ground's edge

    @property
    def ground_y(self) -> float:
        return HORIZON + self.parallax * DEPTH_OF_GROUND


SKY_PARALLAX, CLOUD_PARALLAX, MOUNTAIN_PARALLAX = 0.0, 0.12, 0.22
LAYERS = (
    Layer("far", 0.45, 0.44, 9.0),
    Layer("mid", 0.70, 0.66, 6.0),
    Layer("main", 1.00, 1.00, 4.0),
    Layer("near", 1.50, 1.75, 0.0),
)
LAYER = {layer.name: layer for layer in LAYERS}
