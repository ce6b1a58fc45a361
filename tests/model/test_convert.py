"""Promise: pickles are converted to safetensors offline, and none of their code ever runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from model.checkpoints.convert import convert, note_file
from model.checkpoints.errors import WeightsError
from model.spec import TEST_WAN
from model.transformer.dit import CausalDiT


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"model.{name}": tensor.detach() for name, tensor in CausalDiT(TEST_WAN).state_dict().items()}


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def test_of_a_training_dump_the_averaged_generator_is_kept(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    worse = {name: tensor + 1 for name, tensor in state.items()}
    source = saved(tmp_path / "self_forcing_dmd.pt", {"generator": worse, "critic": worse, "generator_ema": state})
    made = convert(source)
    found = load_file(made.file)
    assert made.file == tmp_path / "self_forcing_dmd.safetensors" and made.part == "dit (Wan2.1 layout)"
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_checksums_and_origin_are_written_down(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", state)
    made = convert(source, tmp_path / "b.safetensors", torch.bfloat16, origin="https://somewhere/a.pth")
    note = json.loads(note_file(made.file).read_text())
    assert note["origin"] == "https://somewhere/a.pth" and note["source"] == "a.pth"
    assert note["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert note["sha256"] == made.sha256 == hashlib.sha256(made.file.read_bytes()).hexdigest()
    with safe_open(made.file, "pt") as file:
        assert json.loads(file.metadata()["pafu"])["source_sha256"] == note["source_sha256"]
    assert {tensor.dtype for tensor in load_file(made.file).values()} == {torch.bfloat16}


def test_tensors_that_share_memory_are_written_apart(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name = "model.blocks.0.self_attn.q.weight"
    square = state[name]
    tied = {**state, name: square.T, "model.blocks.0.self_attn.k.weight": square}
    found = load_file(convert(saved(tmp_path / "a.pt", tied)).file)
    assert torch.equal(found[name], square.T)


def test_sparse_tensors_are_written_dense(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    sparse = {name: tensor.to_sparse() for name, tensor in state.items()}
    found = load_file(convert(saved(tmp_path / "a.pt", sparse)).file)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_lora_of_a_dump_is_kept_as_it_is(tmp_path: Path) -> None:
    lora = {"base_model.model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 80)}
    made = convert(saved(tmp_path / "lora.pt", {"generator_lora": lora, "critic_lora": lora}))
    assert made.part == "LoRA" and load_file(made.file).keys() == lora.keys()


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/pafu-must-not-exist"),))


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"contains more than tensors \([\w.]+\), and Pafu runs no code"):
        convert(saved(tmp_path / "a.pt", {"generator": Trap()}))
    assert not (tmp_path / "a.safetensors").exists()


def test_damaged_missing_and_foreign_files_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.pt", state)
    torn = tmp_path / "torn.pt"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(WeightsError, match="torn.pt is damaged, half-downloaded or no checkpoint"):
        convert(torn)
    (tmp_path / "page.pt").write_bytes(b"<!doctype html>")
    with pytest.raises(WeightsError, match="page.pt is a web page: download the file itself"):
        convert(tmp_path / "page.pt")
    with pytest.raises(WeightsError, match="missing.pt is missing"):
        convert(tmp_path / "missing.pt")
    with pytest.raises(
        WeightsError,
        match="other.pt is not a part of the Wan2.1 family, which is all that Pafu serves: it contains 'layers.0'",
    ):
        convert(saved(tmp_path / "other.pt", {"layers.0": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="is a folder: name a .pt or .pth file, for example .*a.pt"):
        convert(tmp_path)
    name = sorted(state)[1]
    spoilt = {**state, name: torch.full_like(state[name], float("nan"))}
    with pytest.raises(WeightsError, match=f"spoilt.pt: tensor '{name}' contains NaN"):
        convert(saved(tmp_path / "spoilt.pt", spoilt))
    assert not list(tmp_path.glob("*.safetensors*"))
    with pytest.raises(WeightsError, match="/proc/a.safetensors cannot be written"):
        convert(whole, Path("/proc/a.safetensors"))
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(WeightsError, match="b.safetensors is a safetensors file already"):
        convert(tmp_path / "b.safetensors")


def test_a_conversion_that_fails_leaves_no_half_written_file(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    (tmp_path / "a.origin.json").mkdir()  # so that the note cannot be written
    with pytest.raises(IsADirectoryError):
        convert(tmp_path / "a.pt")
    assert {file.name for file in tmp_path.iterdir()} == {"a.pt", "a.origin.json"}
