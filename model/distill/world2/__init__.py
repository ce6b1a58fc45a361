"""The second training world: layers with parallax, many kinds of things, weather and light, and ground truth."""

from model.distill.world2.captions import prompts_by_chunk
from model.distill.world2.paths import Clip, random_clip
from model.distill.world2.render import render_pictures, render_views

__all__ = ["Clip", "prompts_by_chunk", "random_clip", "render_pictures", "render_views"]
