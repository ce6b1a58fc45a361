"""Measures how fast a model streams on this device, with random weights: ``pafu bench --suite gpu``.

It imports no server, so it runs wherever torch does. Every row is measured with a full cache, one chunk after another,
until the pictures are on the host. "transformer" covers the passes and the pruning; "end to end" also covers the
decoder and the copy to the host. H.264 encoding, which the server does, is not included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache import copies
from cache.config import CacheConfig
from model.cost.kernels import attempt, attention_kernels, ceilings, redundancy_kernels, wait
from model.parts import build, settle
from model.spec import ModelSpec, spec_named
from model.stream.video_stream import VideoStream
from model.transformer.asking import AskingHead
from model.transformer.dit import Block, CausalDiT, open_gates
from model.transformer.fp8 import use_fp8, why_not
from model.transformer.salience import SalienceHead
from model.weights import LoadedModel

GIB = 2**30
DTYPE = torch.bfloat16


class RandomText(nn.Module):
    """Random text states: a text encoder of 5 G parameters would run once per prompt."""

    states: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("states", torch.randn(spec.text_len, spec.text_dim))

    def encode(self, prompt: str) -> Tensor:
        return self.states


@dataclass(frozen=True)
class Way:
    """One row: the cache's configuration and how the passes run."""

    policy: str
    budget: float
    mode: str  # plain, graph, compiled (graphs too), fp8 (compiled too)
    chunks: int = 6

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.policy} {self.budget:g} {self.mode}"

    @property
    def cache(self) -> CacheConfig:
        """The cache's configuration."""
        sink = min(1.0, self.budget / 4) if self.policy == "sink_window" else 0.0
        recent = min(3.0, self.budget / 4)
        return CacheConfig(
            policy=self.policy,
            budget_latents=self.budget,
            sink_latents=sink,
            recent_latents=recent,
            position_mode="relative",
        )


WAYS = (
    Way("window", 6, "plain"),
    Way("pafu", 6, "plain"),
    Way("window", 6, "graph"),
    Way("pafu", 6, "graph"),
    Way("pafu", 3, "compiled"),
    Way("window", 6, "compiled"),
    Way("pafu", 6, "compiled"),
    Way("window", 3, "compiled"),
    Way("pafu", 18, "compiled", 4),
    Way("window", 18, "compiled", 4),
    Way("attention", 6, "compiled", 4),
    Way("redundancy", 6, "compiled", 4),
    Way("salience", 6, "compiled", 4),
    Way("sink_window", 6, "compiled", 4),
    Way("pafu", 3, "fp8"),
    Way("pafu", 6, "fp8"),
    Way("window", 6, "fp8"),
)


def random_parts(spec: ModelSpec, codec: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model with random weights, created on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        dit, vae = CausalDiT(spec), build(codec, spec)
        salience, asking = SalienceHead(spec), AskingHead(spec)
        open_gates(dit)
        text = RandomText(spec)
    parts = {"dit": dit, "text": text, "vae": vae}
    settled: dict[str, Any] = {name: settle(part, device, dtype) for name, part in parts.items()}
    heads: dict[str, Any] = {"salience": settle(salience, device, dtype), "asking": settle(asking, device, dtype)}
    return LoadedModel(spec, **settled, **heads, device=device, dtype=dtype, digest="random")


def prepared(model: LoadedModel, mode: str) -> LoadedModel:
    """The same weights with passes in this mode; fp8 replaces the weights permanently."""
    model = dataclasses.replace(model)  # with passes of its own
    for block in model.dit.each_block():
        block.halves = Block.halves
    model.passes.capturing = mode != "plain" and model.device.type == "cuda"
    if mode in ("compiled", "fp8"):
        model.passes.compile()
        model.vae.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    return model


def measure(model: LoadedModel, way: Way) -> dict[str, Any]:
    """Measure one row."""
    spec, device = model.spec, model.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = memory(device)
    stream = VideoStream(model, "a place", 1, way.cache)
    fill = 2 + round(way.budget / spec.chunk_latents + 0.5)
    began = time.perf_counter()
    firsts = [timed(stream) for _ in range(fill + 2)]  # the first full one runs eagerly, the second captures
    filled = time.perf_counter() - began
    base = memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rows = [timed(stream) for _ in range(way.chunks)]
    seconds = {name: statistics.median(row[1][name] for row in rows) for name in rows[0][1]}
    whole = statistics.median(row[0] for row in rows)
    passes = sum(seconds[name] for name in ("denoise", "clean", "prune"))
    pictures = spec.pictures_in_chunk(1)
    return {
        "policy": way.policy,
        "budget_latents": way.budget,
        "mode": way.mode,
        "pictures_per_s_end_to_end": pictures / whole,
        "pictures_per_s_transformer": pictures / passes,
        "chunk_ms": 1e3 * whole,
        "stages_ms": {name: 1e3 * value for name, value in seconds.items()},
        "prune_share": seconds["prune"] / whole,
        "first_chunk_ms": 1e3 * timed(VideoStream(model, "another place", 2, way.cache))[0],
        "cold_first_chunk_ms": 1e3 * firsts[0][0],
        "fill_s": filled,
        "session_gib": stream.cache.nbytes / GIB,
        "workspace_gib": stream.cache.workspace.nbytes / GIB,
        "model_and_others_gib": before / GIB,
        "held_gib": base / GIB,
        "peak_gib": (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0) / GIB,
        "graph_replays": model.passes.replays,
        "graphs_refused": model.passes.why_refused,
        "transformer_tflop": work(spec, way.budget) / 1e12,
        "share_of_matmul_ceiling": None,
    }


def timed(stream: VideoStream) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    chunk = stream.next_chunk()
    return time.perf_counter() - began, chunk.stats.seconds


def memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def work(spec: ModelSpec, budget: float) -> float:
    """Floating-point operations of a chunk's passes over a full cache: products and attention."""
    chunk = spec.tokens_per_chunk
    dense = spec.num_layers * (6 * spec.dim**2 + 2 * spec.dim * spec.ffn_dim)
    seen = chunk + round(budget * spec.tokens_per_latent) + spec.text_len
    return (len(spec.timesteps) + 1) * chunk * (2 * dense + spec.num_layers * 4 * spec.dim * seen)


def profile(model: LoadedModel, way: Way) -> dict[str, Any]:
    """Kernels of one chunk over a full cache, and their share of the time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    stream = VideoStream(model, "a place", 1, way.cache)
    for _ in range(4 + round(way.budget / model.spec.chunk_latents + 0.5)):
        stream.next_chunk()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if model.device.type == "cuda" else [])]
    with profiler(activities=kinds) as seen:
        stream.next_chunk()
        wait(model.device)
    sort = "self_device_time_total" if model.device.type == "cuda" else "self_cpu_time_total"
    averages = seen.key_averages()
    kernels = sum(event.count for event in averages if str(event.device_type).endswith("CUDA"))
    return {"kernels": kernels, "table": averages.table(sort_by=sort, row_limit=40, max_name_column_width=90)}


def twins(device: torch.device) -> dict[str, Any]:
    """Compares fast paths with the plain one on small weights: the largest difference of three chunks' latents."""
    spec = spec_named("test-tiny")
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain = None
        for mode in ("plain", "graph", "compiled")[: 3 if dtype == torch.float32 else 2]:
            model = prepared(random_parts(spec, spec.video_codec, device, dtype), mode)
            stream = VideoStream(model, "a place", 3, Way("pafu", 4, mode).cache)
            latents = torch.stack([stream.next_chunk().latents.float().cpu() for _ in range(7)])
            plain = latents if plain is None else plain
            name = f"{str(dtype).removeprefix('torch.')}_{mode}"
            found[name] = {
                "largest_difference": float((latents - plain).abs().max()),
                "finite": bool(latents.isfinite().all()),
                "replays": model.passes.replays,
                "refused": model.passes.why_refused,
            }
    return found


def fp8_error(spec: ModelSpec, model: LoadedModel) -> dict[str, float]:
    """The change of one chunk's latents with large products in FP8, relative to their norm."""
    cache = Way("window", 3, "fp8").cache
    exact = VideoStream(prepared(model, "plain"), "a place", 5, cache).next_chunk().latents
    use_fp8(model.dit)  # permanent
    near = VideoStream(prepared(model, "plain"), "a place", 5, cache).next_chunk().latents
    return {"fp8_latents_error": float((near - exact).float().norm() / exact.float().norm())}


class Suite:
    """One run, row by row, the most important first, until the time is over. After each row, the results are written
    to ``out`` and ``tell`` is called."""

    def __init__(
        self,
        spec: ModelSpec,
        codec: str,
        device: torch.device,
        out: Path,
        minutes: float,
        tell: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self._spec, self._codec, self._device = spec, codec, device
        self._out, self._tell = out, tell
        self._end = time.monotonic() + 60 * minutes
        self._result: dict[str, Any] = {"about": about(spec, codec, device), "rows": [], "left_out": []}

    def run(self, ways: tuple[Way, ...]) -> dict[str, Any]:
        """Measure the device, then ``ways``; returns the results."""
        self._out.mkdir(parents=True, exist_ok=True)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self._measure_device()
        self._write()
        model = random_parts(self._spec, self._codec, self._device, DTYPE)
        model.dit.fuse()
        for mode, group in by_mode(ways):
            if reason := self._why_not(mode, model):
                self._leave_out(group, reason)
            else:
                self._measure_mode(prepared(model, mode), mode, group)
        self._write()
        draw(self._out, self._result)
        return self._result

    def _measure_device(self) -> None:
        """Check the fast paths and measure the kernels; a fused kernel that is wrong is not used afterwards."""
        spec, device, result = self._spec, self._device, self._result
        on_gpu = device.type == "cuda"
        result["twins"] = attempt("twins", lambda: twins(device)) if on_gpu else {}
        result["ceilings"] = attempt("ceilings", lambda: ceilings(spec, device, DTYPE))
        if on_gpu:
            result["attention_tflops"] = attempt("attention", lambda: attention_kernels(spec, device, DTYPE, 6))
            result["redundancy"] = attempt("redundancy", lambda: redundancy_kernels(spec, device, DTYPE, 6))
            if not result["redundancy"].get("largest_difference", 1.0) < 0.02:
                copies.fused_copies = lambda device: None  # type: ignore[assignment]

    def _why_not(self, mode: str, model: LoadedModel) -> str | None:
        """Why this mode cannot be measured. Mode fp8 changes the weights of ``model``, so it comes last."""
        if mode != "fp8":
            return None
        if reason := why_not(self._device):
            return reason
        error = attempt("fp8", lambda: fp8_error(self._spec, model))
        self._result |= error
        return error.get("fp8_failed")

    def _measure_mode(self, model: LoadedModel, mode: str, group: list[Way]) -> None:
        for way in group:
            if time.monotonic() > self._end:
                self._leave_out([way], "no time left")
                continue
            row = attempt(way.name, partial(measure, model, way))
            peak = self._result["ceilings"].get("matmul_tflops")
            if "chunk_ms" in row and peak is not None:
                passes = sum(row["stages_ms"][name] for name in ("denoise", "clean"))
                row["share_of_matmul_ceiling"] = row["transformer_tflop"] * 1e3 / passes / peak
            self._result["rows"].append(row)
            self._tell(row)
            self._write()
        if time.monotonic() < self._end:
            seen = attempt("profile", partial(profile, model, group[-1]))
            (self._out / f"profile_{mode}.txt").write_text(f"{group[-1].name}\n{seen.pop('table', '')}")
            self._result.setdefault("kernels", {})[group[-1].name] = seen
            self._write()

    def _leave_out(self, ways: list[Way], reason: str) -> None:
        self._result["left_out"] += [f"{way.name}: {reason}" for way in ways]

    def _write(self) -> None:
        (self._out / "speed.json").write_text(json.dumps(self._result, indent=2) + "\n")


def by_mode(ways: tuple[Way, ...]) -> Iterator[tuple[str, list[Way]]]:
    for mode in ("plain", "graph", "compiled", "fp8"):
        if group := [way for way in ways if way.mode == mode]:
            yield mode, group


def about(spec: ModelSpec, codec: str, device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "model": f"{spec.name} with random weights, {spec.width} x {spec.height}, decoder {codec}",
        "device": name,
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def draw(out: Path, result: dict[str, Any]) -> None:
    """Pictures per second by row, end to end and for the transformer alone."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return
    rows = [row for row in result["rows"] if "chunk_ms" in row]
    figure, axis = pyplot.subplots(figsize=(9, 1.5 + 0.4 * len(rows)))
    places = range(len(rows))
    axis.barh(
        [p + 0.2 for p in places], [r["pictures_per_s_transformer"] for r in rows], 0.4, label="transformer alone"
    )
    axis.barh(
        [p - 0.2 for p in places], [r["pictures_per_s_end_to_end"] for r in rows], 0.4, label="end to end, with decoder"
    )
    axis.set_yticks(list(places), [f"{r['policy']} {r['budget_latents']:g}, {r['mode']}" for r in rows])
    axis.set_xlabel("pictures a second")
    axis.set_title(
        f"{result['about']['model']}\n{result['about']['device']}, torch {result['about']['torch']}", fontsize=9
    )
    axis.axvline(16, color="grey", linewidth=0.8)
    axis.invert_yaxis()
    axis.legend()
    figure.tight_layout()
    figure.savefig(out / "speed.png", dpi=120)


def decoder_of(spec: ModelSpec) -> str:
    """The benchmark's decoder: the tiny one for Wan's latents, else the model's own."""
    return "taew2.1" if spec.video_codec == "wan2.1" else spec.video_codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", choices=["gpu"], default="gpu")
    parser.add_argument("--model", default="self-forcing")
    parser.add_argument(
        "--codec", default=None, help="the decoder; default: the tiny one for Wan's latents, else the model's"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", default="plain,graph,compiled,fp8")
    given = parser.parse_args()
    spec = spec_named(given.model)
    codec = given.codec or decoder_of(spec)
    ways = tuple(way for way in WAYS if way.mode in given.modes.split(","))
    device = torch.device(given.device)
    suite = Suite(spec, codec, device, given.out, given.minutes, lambda row: print(json.dumps(row), flush=True))
    suite.run(ways)


if __name__ == "__main__":
    main()
