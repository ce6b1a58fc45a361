"""A Gradio page (``pip install gradio``) with a prompt, a seed and an optional first picture; shows progress and the
video."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gradio as gr
from pafu_client import PafuError
from pafu_client.sync import Jobs

URL = os.environ.get("PAFU_URL", "http://127.0.0.1:8000")
PROMPT = "a meadow by day, a red house with a blue roof on the left and a white mill on the right"


def make(prompt: str, seconds: float, seed: float, image: str | None, progress: gr.Progress | None = None) -> str:
    """Create a video; returns its path."""
    told = (lambda video: progress(video.progress / 100, desc=video.status)) if progress else None
    begin = {"image": image} if image else {}
    try:
        with Jobs(URL) as jobs:
            video = jobs.wait(jobs.create(prompt, seconds=seconds, seed=int(seed), **begin), on_progress=told)
            return str(jobs.download(video, Path(tempfile.mkdtemp()) / f"{video.id}.mp4"))
    except PafuError as error:
        raise gr.Error(error.message) from None


def page() -> gr.Blocks:
    """The Gradio page."""
    with gr.Blocks(title="Pafu") as demo:
        gr.Markdown("# Pafu")
        prompt = gr.Textbox(PROMPT, label="What do you see?")
        with gr.Row():
            seconds = gr.Slider(0.5, 30, 4, label="Seconds")
            seed = gr.Number(1, label="Seed", precision=0)
        image = gr.Image(type="filepath", label="Begin with a picture")
        video = gr.Video(label="The video")

        def run(*asked: object, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008, Gradio's way to give it
            return make(*asked, progress)  # type: ignore[arg-type]

        gr.Button("Make").click(run, [prompt, seconds, seed, image], video, api_name="make")
    return demo


if __name__ == "__main__":
    page().launch()
