"""A ComfyUI node that gets a video from a Pafu server and outputs its pictures, (pictures, height, width, 3) from 0 to
1.

Copy this folder into ``custom_nodes/pafu``. It needs ``pip install pafu-client`` and a running ``pafu serve``.
"""

from __future__ import annotations

import io
import os
from typing import Any

import av
import numpy as np
import torch
from pafu_client.sync import Jobs
from PIL import Image


class PafuVideo:
    """Generates a video from a prompt; with ``image``, the video begins with the first of these pictures."""

    CATEGORY = "Pafu"
    FUNCTION = "make"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("images", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        words = {"multiline": True, "default": "a meadow by day, a red mill"}
        return {
            "required": {
                "prompt": ("STRING", words),
                "seconds": ("FLOAT", {"default": 4.0, "min": 0.1, "max": 600.0, "step": 0.1}),
                "seed": ("INT", {"default": 1, "min": 0, "max": 2**31 - 1}),
                "url": ("STRING", {"default": os.environ.get("PAFU_URL", "http://127.0.0.1:8000")}),
            },
            "optional": {"image": ("IMAGE",)},
        }

    def make(
        self, prompt: str, seconds: float, seed: int, url: str, image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, float]:
        begin = {} if image is None else {"image": png(image[0])}
        with Jobs(url) as jobs:
            video = jobs.wait(jobs.create(prompt, seconds=seconds, seed=seed, **begin))
            return pictures(jobs.content(video)), float(video.raw["fps"])


def png(picture: torch.Tensor) -> bytes:
    """A picture (height, width, 3) from 0 to 1 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray((255 * picture.clamp(0, 1)).round().to(torch.uint8).numpy()).save(out, "PNG")
    return out.getvalue()


def pictures(video: bytes) -> torch.Tensor:
    """The video's pictures (pictures, height, width, 3) from 0 to 1."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).float() / 255


NODE_CLASS_MAPPINGS = {"PafuVideo": PafuVideo}
NODE_DISPLAY_NAME_MAPPINGS = {"PafuVideo": "Pafu video"}
