"""Promise: weights that do not fit end every command that takes some with one clear line, and leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from model.spec import TEST_WAN
from model.transformer.salience import HEAD_FILE, SalienceHead, save_head
from server.cli.main import app
from tests.model.checkpoints import small_wan, write

DIT = "transformer/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Q = "base_model.model.blocks.0.self_attn.q.lora"


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def without(folder: Path, tensor: str) -> None:
    save_file({n: each for n, each in load_file(folder / DIT).items() if n != tensor}, folder / DIT)


Spoil = Callable[[Path], object]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "half a transformer": (lambda at: cut(at, DIT), f"{DIT} is truncated or no safetensors file"),
    "half a text encoder": (lambda at: cut(at, TEXT), f"{TEXT} is truncated or no safetensors file"),
    "half a download": (
        lambda at: (at / DIT).rename(at / f"{DIT}.incomplete"),
        f"{DIT}.incomplete is incomplete: run it again, it resumes",
    ),
    "no text encoder": (lambda at: (at / TEXT).unlink(), "the text encoder of 'test-wan' is missing in"),
    "no VAE": (lambda at: shutil.rmtree(at / "vae"), "the VAE of 'test-wan' is missing in"),
    "no transformer": (lambda at: (at / DIT).unlink(), "and no transformer of 'test-wan'"),
    "a tensor is missing": (
        lambda at: without(at, "blocks.1.ffn.0.bias"),
        f"{DIT} (Wan2.1 layout) lacks tensor 'blocks.1.ffn.0.bias'",
    ),
    "a LoRA for another base": (
        lambda at: save_file(
            {f"{Q}_A.weight": torch.zeros(4, 5120), f"{Q}_B.weight": torch.zeros(5120, 4)}, at / "lora.safetensors"
        ),
        "lora.safetensors is a LoRA for another base",
    ),
    "another family": (
        lambda at: save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3)}, at / DIT),
        f"{DIT} is a checkpoint of another family",
    ),
}


def command(name: str, weights: Path, good: Path, out: Path) -> list[str]:
    """The command with these weights; it would write into ``out``."""
    prompts = ["--model", "test-wan", "--prompts", __file__, "--out", str(out / "run"), "--threads", "1"]
    settings = ["--model", "test-wan", "--weights", str(weights), "--threads", "1", "--device", "cpu"]
    return {
        "--student": ["distill", "long", "--student", str(weights), *prompts, "--policy", "window"],
        "--student of a head": ["distill", "salience", "--student", str(weights), "--teacher", str(good), *prompts],
        "--teacher": ["distill", "salience", "--student", str(good), "--teacher", str(weights), *prompts],
        "--weights of eval": ["eval", "--weights", str(weights), *prompts],
        "--weights of generate": ["generate", "a mill", "-o", str(out / "film.mp4"), *settings],
        "--weights of doctor": ["doctor", *settings],
    }[name]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("good"), small_wan())


@pytest.fixture
def weights(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "weights"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAFU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PAFU_HUB_CACHE", str(tmp_path / "hub"))


def refused(arguments: list[str], out: Path) -> str:
    """What the command said in its one line, after it wrote nothing."""
    out.mkdir()
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code and isinstance(run.exception, SystemExit), run.output
    assert not list(out.iterdir())
    lines = [line for line in run.output.splitlines() if line.startswith(("pafu: error:", "no "))]
    assert "Traceback" not in run.output
    return lines[0]


SLOW = ("--weights of eval", "--weights of generate", "--weights of doctor")  # they count the memory first
EVERY = [
    pytest.param(name, case, marks=[pytest.mark.proof] if name in SLOW and case != "no text encoder" else [])
    for name in ("--student", "--student of a head", "--teacher", *SLOW)
    for case in SPOILT
]


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_what_is_wrong_is_told_with_the_option_at_fault(
    name: str, case: str, weights: Path, good: Path, tmp_path: Path
) -> None:
    spoil, said = SPOILT[case]
    spoil(weights)
    line = refused(command(name, weights, good, tmp_path / "out"), tmp_path / "out")
    assert said in line and f"{name.split()[0]}: " in line


@pytest.mark.parametrize("option", ["--text-encoder", "--vae"])
@pytest.mark.parametrize("model", ["pafu-mini", "test-wan"])
def test_another_part_for_weights_that_have_their_own_is_refused(model: str, option: str, tmp_path: Path) -> None:
    arguments = ["distill", "long", "--model", model, option, str(tmp_path), "--policy", "window"]
    prompts = ["--prompts", __file__, "--out", str(tmp_path / "out" / "run"), "--threads", "1"]
    assert f"{option}: model '{model}' uses its own" in refused([*arguments, *prompts], tmp_path / "out")


def test_a_head_of_another_student_is_refused_where_it_would_be_used(weights: Path, good: Path, tmp_path: Path) -> None:
    """A new head for the student can still be made."""
    save_head(weights / HEAD_FILE, SalienceHead(TEST_WAN), "f" * 64, 1)
    out = tmp_path / "out"
    line = refused(command("--student", weights, good, out), out)
    assert f"--student: {weights / HEAD_FILE} is a salience head of student 'ffffffffffff'" in line
    chosen = [*command("--student", good, good, out), "--head", str(weights / HEAD_FILE)]
    out.rmdir()
    assert "--head: " in refused(chosen, out)
    little = ["--clips", "1", "--held-out", "1", "--steps", "1", "--batch", "1", "--dream-steps", "1"]
    run = CliRunner().invoke(app, [*command("--student of a head", weights, good, out), *little])
    assert run.exit_code == 0, run.output
    assert (out / "run" / HEAD_FILE).is_file()


def test_a_start_is_refused_before_anything_is_created(weights: Path, tmp_path: Path) -> None:
    cut(weights, DIT)
    settings = ["--model", "test-wan", "--weights", str(weights), "--device", "cpu+cpu"]
    line = refused(["serve", "--port", "0", *settings], tmp_path / "out")
    assert f"--weights: {weights / DIT} is truncated" in line and not (tmp_path / "data").exists()
