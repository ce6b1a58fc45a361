"""Colours of times of day and weather: skies, and the curve that lights what was drawn in neutral light."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from model.distill.world2.size import LAYER

SKY = {  # top, middle, horizon
    "morning": ((112, 170, 216), (186, 214, 224), (255, 224, 186)),
    "day": ((70, 146, 220), (132, 192, 236), (214, 236, 246)),
    "sunset": ((66, 60, 124), (206, 100, 116), (255, 182, 104)),
    "night": ((10, 15, 44), (26, 36, 84), (62, 78, 132)),
}
TINT = {
    "morning": (1.02, 0.97, 0.90),
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.78, 0.68),
    "night": (0.54, 0.59, 0.82),
}
GREY = {"morning": (204, 206, 208), "day": (196, 206, 216), "sunset": (176, 136, 140), "night": (44, 50, 76)}
# share of gray in the sky; haze on the main layer; remaining light
WEATHER = {
    "clear": (0.0, 0.0, 1.0),
    "cloudy": (0.5, 0.02, 0.94),
    "rain": (0.75, 0.10, 0.84),
    "snowfall": (0.6, 0.10, 0.96),
    "fog": (0.7, 0.26, 0.95),
}
HAZE = {"far": 0.30, "mid": 0.13, "main": 0.0, "near": 0.0, "mountain": 0.48}
NEAR_DARK = 0.86
GLOWING = {"morning": 0.0, "day": 0.0, "sunset": 0.85, "night": 1.0}


def sky_colours(light: str, weather: str) -> np.ndarray:
    """(3, 3): top, middle and horizon."""
    grey = WEATHER[weather][0]
    colours = np.array(SKY[light], np.float32)
    veil = np.array(GREY[light], np.float32) * np.array([[0.86], [0.97], [1.05]])
    mixed: np.ndarray = colours * (1 - grey) + veil * grey
    return mixed


@lru_cache(maxsize=256)
def curve(plane: str, light: str, weather: str) -> list[int]:
    """768 entries for Image.point: tint and haze of a layer, or of the mountains, in a light and weather."""
    share = HAZE[plane]
    fog = WEATHER[weather][1]
    share = 1 - (1 - share) * (1 - fog * (1.0 if plane == "near" else 1.0 + 1.2 * (share > 0.05)))
    share = min(share, 0.86)
    horizon = sky_colours(light, weather)[2] * 0.96
    strength = WEATHER[weather][2] * (NEAR_DARK if plane == "near" else 1.0)
    steps = np.arange(256, dtype=np.float32)
    bands = [
        (steps * tint * strength) * (1 - share) + haze * share for tint, haze in zip(TINT[light], horizon, strict=True)
    ]
    entries: list[int] = np.clip(np.concatenate(bands), 0, 255).round().astype(int).tolist()
    return entries


assert set(LAYER) < set(HAZE)
