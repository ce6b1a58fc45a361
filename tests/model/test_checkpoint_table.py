"""Promise: the operators' tables of public checkpoints match the specs, and their commands work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model.checkpoints import hub
from model.spec import WAN_FAMILY, ModelSpec
from server.cli.main import app
from server.config import load_settings
from tests.model.checkpoints import small_wan

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def row(spec: ModelSpec) -> str:
    """As docs/operations.md has it; the window is the reference's, with the open chunk."""
    assert spec.source
    steps = ", ".join(map(str, spec.denoising_steps))
    first = ", ".join(map(str, spec.first_steps)) or "as others"
    window = spec.cache_budget_latents + spec.chunk_latents
    sink = {"window": "0"}.get(spec.cache_policy, "usual") if spec.cache_sink_latents is None else None
    cells = (
        f"`{spec.name}`",
        spec.source.repo,
        f"{steps}{', warped' if spec.warped else ''}",
        first,
        f"{spec.shift:g}",
        f"{spec.chunk_latents}",
        f"{spec.cache_policy}",
        f"{window:g}",
        sink or f"{spec.cache_sink_latents:g}",
        spec.position_mode,
    )
    return f"| {' | '.join(cells)} |"


def commands(spec: ModelSpec) -> tuple[str, str, list[str]]:
    """The commands of a checkpoint: pull, serve, and converting the pickles of its own repository one by one."""
    assert spec.source
    pickled = [Path(file).name for file in spec.source.files if file.endswith((".pt", ".pth"))]
    serve = f"pafu serve --model {spec.name} --weights {spec.source.repo}"
    return f"pafu pull {spec.name}", serve, [f"pafu convert {name}" for name in pickled]


def row_of_commands(spec: ModelSpec) -> str:
    pull, serve, convert = commands(spec)
    return f"| `{pull}` | {', '.join(f'`{each}`' for each in convert) or 'safetensors already'} | `{serve}` |"


@pytest.mark.parametrize("spec", WAN_FAMILY, ids=lambda spec: spec.name)
def test_every_checkpoint_has_its_row(spec: ModelSpec) -> None:
    assert row(spec) in DOCUMENT.read_text().splitlines()
    assert row_of_commands(spec) in DOCUMENT.read_text().splitlines()


@pytest.mark.parametrize("spec", WAN_FAMILY, ids=lambda spec: spec.name)
def test_its_commands_pull_convert_and_serve_it(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command line itself and the hub's own library, on small files in a cache folder."""
    monkeypatch.setenv(hub.CACHE_VARIABLE, str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    small = {f"model.{name}": tensor for name, tensor in small_wan().dit.state_dict().items()}
    assert spec.source
    for each in hub.wanted(spec.name):
        stored(tmp_path / "hub", each.repo, [file.replace("*", "") for file in each.files], small)
    pull, serve, convert = commands(spec)
    run = CliRunner().invoke(app, pull.split()[1:])
    assert run.exit_code == 0, run.output
    _, _, *flags = serve.split()
    given = dict(zip((flag.removeprefix("--") for flag in flags[::2]), flags[1::2], strict=True))
    settings = load_settings(given)
    assert settings.spec == spec and hub.locate(str(settings.weights), spec).exists()
    for command in convert:
        source = next((tmp_path / "hub").glob(f"models--*/snapshots/*/**/{command.split()[-1]}"))
        run = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out.safetensors")])
        assert run.exit_code == 0, run.output


def stored(cache: Path, repo: str, files: list[str], tensors: dict[str, torch.Tensor]) -> None:
    """A repository in the hub library's layout; checkpoints in it hold ``tensors``."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("a" * 40)
    for name in files:
        file = folder / "snapshots" / ("a" * 40) / (f"{name}tokenizer.json" if name.endswith("/") else name)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".pt", ".pth"):
            torch.save({"generator_ema": tensors}, file)
        else:
            file.write_bytes(b"{}")
