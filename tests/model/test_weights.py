"""Promise: weights that do not fit are refused by name, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.spec import TEST_TINY, WAN_1_3B
from model.weights import LoadedModel, WeightsError, load_model, preferred_dtype, random_model, save_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = random_model(TEST_TINY, seed=1, dtype=torch.float32)
    save_model(tmp_path, TEST_TINY, model.dit, model.text, model.vae, trained_steps={"dit": 5}, dtype=torch.float32)
    return tmp_path


def state(model: LoadedModel) -> Tensors:
    parts = {"dit": model.dit, "text": model.text, "vae": model.vae}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}


def rewrite(folder: Path, file: str, change: Callable[[Tensors], object]) -> None:
    """Change a file's tensors and its checksum, so that only the tensors are wrong."""
    import hashlib

    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    description = json.loads((folder / "model.json").read_text())
    description["sha256"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(description))


def test_what_was_saved_is_loaded_bit_for_bit(folder: Path) -> None:
    loaded = load_model("test-tiny", folder, dtype=torch.float32)
    expected = state(random_model(TEST_TINY, seed=1, dtype=torch.float32))
    found = state(loaded)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(parameter.requires_grad for parameter in loaded.dit.parameters())
    assert not (loaded.dit.training or loaded.text.training or loaded.vae.training)


def test_weights_are_served_in_the_dtype_that_is_asked_for(folder: Path) -> None:
    loaded = load_model(TEST_TINY, folder, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert {t.dtype for t in state(loaded).values() if t.is_floating_point()} == {torch.bfloat16}
    assert load_model(TEST_TINY, folder).dtype == preferred_dtype("cpu")


def test_random_models_follow_from_their_seed_alone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    one, same, other = (state(random_model(TEST_TINY, seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["dit.blocks.0.ffn.0.weight"], other["dit.blocks.0.ffn.0.weight"])
    assert torch.equal(torch.random.get_rng_state(), before), "making a model must not disturb other random numbers"


@pytest.mark.parametrize("file", ["model.json", "dit.safetensors", "text.safetensors", "vae.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=f"{file} is missing"):
        load_model("test-tiny", folder)


@pytest.mark.parametrize("keep", [0, 5, 400, -100], ids=["empty", "inside-length", "inside-header", "inside-data"])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"dit.safetensors is truncated or no safetensors file"):
        load_model("test-tiny", folder)


def test_a_flipped_byte_is_noticed(folder: Path) -> None:
    path = folder / "vae.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"vae.safetensors does not match its sha256"):
        load_model("test-tiny", folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, "dit.safetensors", lambda tensors: tensors.pop("blocks.1.self_attn.q.bias"))
    with pytest.raises(WeightsError, match=r"dit.safetensors lacks tensor 'blocks.1.self_attn.q.bias'$"):
        load_model("test-tiny", folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    rewrite(folder, "text.safetensors", lambda tensors: tensors.update({"zz": torch.zeros(1), "yy": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"text.safetensors holds tensor 'yy', which .* \(and 1 more\)"):
        load_model("test-tiny", folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder, "text.safetensors", lambda tensors: tensors.update({"norm.weight": torch.zeros(3)}))
    with pytest.raises(
        WeightsError, match=r"text.safetensors: tensor 'norm.weight' has shape \(3,\), the model needs \(32,\)"
    ):
        load_model("test-tiny", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "model.json cannot be read"),
        ("[]", "model.json cannot be read"),
        ('{"format": 1, "name": "test-tiny"}', "model.json cannot be read: KeyError: 'sha256'"),
        ('{"format": 9, "name": "test-tiny", "sha256": {}}', "has format 9, this version of Pafu reads format 1"),
        ('{"format": 1, "name": "pafu-mini", "sha256": {}}', "describes model 'pafu-mini', but 'test-tiny' was asked"),
        ('{"format": 1, "name": "test-tiny", "sha256": {}}', "gives no sha256 for dit.safetensors"),
    ],
)
def test_a_description_that_cannot_be_trusted_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_model("test-tiny", folder)


def test_a_model_without_shipped_weights_asks_for_a_folder() -> None:
    with pytest.raises(WeightsError, match=r"no weights ship with model 'wan2.1-1.3b'"):
        load_model(WAN_1_3B)
