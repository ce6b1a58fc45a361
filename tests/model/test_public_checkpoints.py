"""Promise: public layouts are recognised by their tensors, and errors say what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache.config import CacheConfig
from model.checkpoints.layouts import recognise
from model.checkpoints.public import Beside
from model.parts import NoEncoder, build
from model.spec import TEST_WAN, WAN_1_3B, WAN_14B
from model.stream.video_stream import VideoStream
from model.transformer.dit import CausalDiT
from model.transformer.salience import SalienceHead, save_head
from model.wan.tiny_vae import TinyVAE
from model.weights import LoadedModel, WeightsError, load_model


def _beside() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checkpoints_for_tests", Path(__file__).with_name("checkpoints.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


public = _beside()
Tensors = dict[str, Tensor]
FSDP = "_fsdp_wrapped_module."


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def fully_sharded(tensors: Tensors) -> Tensors:
    """Tensor names of a training with FSDP around the model and every block."""
    return {f"model.{FSDP}" + name.replace("blocks.", f"blocks.{FSDP}", 1): tensor for name, tensor in tensors.items()}


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "wan": lambda tensors: tensors,
    "diffusers": lambda tensors: public.diffusers_dit(tensors),
    "self-forcing": prefixed("model."),
    "self-forcing ema": prefixed("generator_ema.model."),
    "causvid": prefixed("generator.model."),
    "fsdp": fully_sharded,
    "compiled": prefixed("_orig_mod."),
    "comfy": prefixed("model.diffusion_model."),
    "one nobody has heard of": prefixed("student_net.module."),
}


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return public.small_wan()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", [WAN_1_3B, WAN_14B], ids=lambda spec: spec.name)
def test_every_tensor_of_the_full_size_finds_its_place(layout: str, spec: object) -> None:
    with torch.device("meta"):
        expected = CausalDiT(spec).state_dict()  # type: ignore[arg-type]
    if spec is WAN_1_3B:
        assert len(expected) == 825 and sum(tensor.numel() for tensor in expected.values()) == 1_418_996_800
    stored = LAYOUTS[layout](expected)
    found = recognise(stored)
    assert found is not None and found.names.keys() == expected.keys()
    assert all(stored[theirs].shape == expected[ours].shape for ours, theirs in found.names.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_any_layout_gives_the_same_model(layout: str, small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path, small, transformer=LAYOUTS[layout](small.dit.state_dict()))
    loaded = load_model(TEST_WAN, folder, dtype=torch.float32)
    assert public.same_parts(loaded, small)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in loaded.dit.parameters())


def test_of_a_training_dump_the_average_is_served(small: LoadedModel, tmp_path: Path) -> None:
    state = small.dit.state_dict()
    dump = {f"generator_ema.model.{name}": tensor for name, tensor in state.items()}
    dump |= {f"generator.model.{name}": tensor + 1 for name, tensor in state.items()}
    dump |= {f"critic.model.{name}": tensor + 2 for name, tensor in state.items()}
    assert public.same_parts(
        load_model(TEST_WAN, public.write(tmp_path, small, transformer=dump), dtype=torch.float32), small
    )


def test_text_encoder_and_vae_are_read_in_wans_own_names(small: LoadedModel, tmp_path: Path) -> None:
    text = public.wan_text(small.text.encoder.state_dict())  # type: ignore[attr-defined]
    assert load_model(TEST_WAN, public.write(tmp_path, small, text_encoder=text), dtype=torch.float32)
    assert public.same_parts(load_model(TEST_WAN, tmp_path, dtype=torch.float32), small)


def test_shards_are_one_checkpoint_and_a_missing_one_is_named(small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path, small)
    whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = sorted(load_file(whole).items())
    whole.unlink()
    shards = [whole.with_name(f"diffusion_pytorch_model-0000{n}-of-00002.safetensors") for n in (1, 2)]
    for part, shard in enumerate(shards):
        save_file(dict(state[part::2]), shard)
    assert public.same_parts(load_model(TEST_WAN, folder, dtype=torch.float32), small)
    assert public.same_parts(load_model(TEST_WAN, shards[1], dtype=torch.float32), small), "one shard stands for all"
    shards[1].unlink()
    with pytest.raises(WeightsError, match="00002-of-00002.safetensors is missing: the download is incomplete"):
        load_model(TEST_WAN, folder)
    odd = [shards[0].rename(whole.with_name("a.safetensors")).name, "b.safetensors"]
    index = whole.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {name: odd[place % 2] for place, (name, _) in enumerate(state)}}))
    with pytest.raises(WeightsError, match="transformer/b.safetensors is missing: the download is incomplete"):
        load_model(TEST_WAN, folder)
    index.write_text("{")
    with pytest.raises(WeightsError, match="index.json cannot be read: JSONDecodeError; download it again"):
        load_model(TEST_WAN, folder)
    save_file(dict(state), whole)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    (whole.with_name("a.safetensors")).unlink()
    assert public.same_parts(load_model(TEST_WAN, folder, dtype=torch.float32), small), "one whole file needs no index"


def test_parts_may_be_elsewhere(small: LoadedModel, tmp_path: Path) -> None:
    base = public.write(tmp_path / "base", small)
    student = tmp_path / "student" / "self_forcing_dmd.safetensors"
    student.parent.mkdir()
    save_file(public.owned(prefixed("model.")(small.dit.state_dict())), student)
    with pytest.raises(WeightsError, match="text encoder of 'test-wan' is missing.*--text-encoder"):
        load_model(TEST_WAN, student)
    wrong = Beside(text_encoder=base / "text_encoder", vae=base / "text_encoder")
    with pytest.raises(WeightsError, match="VAE .* is missing in .*/text_encoder, which holds only a text encoder"):
        load_model(TEST_WAN, student, beside=wrong)
    beside = Beside(text_encoder=base / "text_encoder", vae=base / "vae")
    (student.parent / "of_somebody_else").mkdir()
    (student.parent / "of_somebody_else" / "torn.safetensors").write_bytes(b"half")
    assert public.same_parts(load_model(TEST_WAN, student, dtype=torch.float32, beside=beside), small)
    public.write(student.parent, small, transformer={"another.weight": torch.zeros(1)})
    assert public.same_parts(load_model(TEST_WAN, student, dtype=torch.float32), small), "parts that stand beside it"


def lora(model: LoadedModel, name: Callable[[str], str], rank: int = 4) -> tuple[Tensors, Tensors]:
    """A LoRA for every Linear of the blocks with PEFT's names, and the resulting weights."""
    generator = torch.Generator().manual_seed(1)
    tensors, merged = {}, dict(model.dit.state_dict())
    for module in (
        each.removesuffix(".weight") for each in merged if each.startswith("blocks.") and "norm" not in each
    ):
        if f"{module}.weight" not in merged or not module.endswith(("q", "k", "v", "o", "ffn.0", "ffn.2")):
            continue
        weight = merged[f"{module}.weight"]
        down = torch.randn(rank, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        tensors |= {name(f"{module}.lora_A"): down, name(f"{module}.lora_B"): up}
        merged[f"{module}.weight"] = weight + up @ down
    return tensors, merged


@pytest.mark.parametrize("wrapped", ["base_model.model.{}.weight", "base_model.model.model.{}.default.weight"])
def test_longlives_lora_is_merged_while_the_base_is_read(wrapped: str, small: LoadedModel, tmp_path: Path) -> None:
    tensors, merged = lora(small, wrapped.format)
    assert len(tensors) == 2 * 10 * TEST_WAN.num_layers  # ten matrices in every block
    folder = public.write(tmp_path, small)
    (folder / "models").mkdir()
    save_file(tensors, folder / "models" / "lora.safetensors")
    loaded = load_model(TEST_WAN, folder, dtype=torch.float32)
    for name, tensor in loaded.dit.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "taehv."])
@pytest.mark.parametrize("encodes", [True, False], ids=["both", "decoder alone"])
def test_a_tiny_vae_may_be_a_decoder_alone_which_starts_with_no_picture(
    encodes: bool, prefix: str, small: LoadedModel, tmp_path: Path
) -> None:
    tiny = TinyVAE(TEST_WAN)
    state = {prefix + n: t for n, t in tiny.state_dict().items() if encodes or n.startswith("decoder.")}
    save_file(state, tmp_path / "taew2_1.safetensors")
    folder, beside = public.write(tmp_path / "base", small), Beside(vae=tmp_path / "taew2_1.safetensors")
    model = load_model(TEST_WAN, folder, dtype=torch.float32, beside=beside)
    z = torch.randn(1, 3, TEST_WAN.latent_channels, 8, 12)
    with torch.no_grad():
        assert torch.equal(model.vae.decode(z)[0], tiny.decode(z)[0])
    stream = VideoStream(model, "a mill", 1, CacheConfig.filled_in("sink_window", 6.0, None, None, 3))
    picture = torch.zeros(TEST_WAN.height, TEST_WAN.width, 3, dtype=torch.uint8)
    assert model.vae.encodes is encodes
    with nullcontext() if encodes else pytest.raises(NoEncoder, match="--vae holds the decoder alone"):
        stream.begin_with(picture)
    del state[f"{prefix}decoder.1.weight"]
    save_file(state, tmp_path / "taew2_1.safetensors")
    with pytest.raises(WeightsError, match="lacks tensor 'decoder.1.weight'"):
        load_model(TEST_WAN, folder, beside=beside)


def test_a_head_belongs_to_the_transformer_whatever_files_are_beside_it(small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path / "base", small)
    student = load_model(TEST_WAN, folder)
    save_head(tmp_path / "head.safetensors", SalienceHead(TEST_WAN), student.student, 1)
    save_file(TinyVAE(TEST_WAN).state_dict(), tmp_path / "taew2_1.safetensors")
    beside = Beside(vae=tmp_path / "taew2_1.safetensors")
    other = load_model(TEST_WAN, folder, head=tmp_path / "head.safetensors", beside=beside)
    assert other.salience is not None and other.digest != student.digest
    tensors, _ = lora(small, "base_model.model.{}.weight".format)
    save_file(tensors, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match="head.safetensors is a salience head of student .*, this student has"):
        load_model(TEST_WAN, folder, head=tmp_path / "head.safetensors")


def test_a_lora_for_another_base_is_refused(small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path, small)
    halves = {"lora_A": torch.zeros(4, 5120), "lora_B": torch.zeros(5120, 4)}
    stored = {f"base_model.model.blocks.0.self_attn.q.{half}.weight": tensor for half, tensor in halves.items()}
    save_file(stored, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match=r"a LoRA for another base.*'blocks.0.self_attn.q.weight'.*5120"):
        load_model(TEST_WAN, folder)


Q = "base_model.model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({f"{Q}.lora_B.weight": torch.zeros(80, 8)}, "the two matrices of 'blocks.0.self_attn.q.weight' do not fit"),
        (
            {f"{Q}.lora_A.weight": torch.zeros(0, 80), f"{Q}.lora_B.weight": torch.zeros(80, 0)},
            r"do not fit: \(80, 0\)",
        ),
        ({f"{Q}.alpha": torch.zeros(3)}, r"'.*q.alpha' must be one number, but has shape \(3,\)"),
        ({f"{Q}.alpha": torch.tensor(float("nan"))}, "'.*q.alpha' contains NaN"),
        ({f"{Q}.lora_magnitude_vector": torch.zeros(80)}, "lora_magnitude_vector', which is no part of a plain LoRA"),
        ({f"{Q}.diff_b": torch.zeros(80)}, "diff_b', which is no part of a plain LoRA"),
        ({"down_blocks.0.proj_in.lora_A.weight": torch.zeros(4, 4)}, "has only one of its two matrices"),
    ],
    ids=["ranks", "no rank", "alpha", "alpha nan", "dora", "diff", "half"],
)
def test_a_lora_that_cannot_be_merged_whole_is_refused(
    extra: Tensors, said: str, small: LoadedModel, tmp_path: Path
) -> None:
    halves = {f"{Q}.lora_A.weight": torch.zeros(4, 80), f"{Q}.lora_B.weight": torch.zeros(80, 4)}
    folder = public.write(tmp_path, small)
    save_file({**halves, **extra}, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match=said):
        load_model(TEST_WAN, folder)


Damage = Callable[[Tensors], object]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state.pop("blocks.1.ffn.0.bias"), "lacks tensor 'blocks.1.ffn.0.bias'"),
        (lambda state: state.update(surprise=torch.zeros(1)), "holds tensor 'surprise'"),
        (lambda state: state.update({"head.head.bias": torch.zeros(3)}), r"'head.head.bias' has shape \(3,\)"),
        (
            lambda state: state.update({"blocks.0.self_attn.q.weight": torch.zeros(1536, 1536)}),
            "width 1536, but 'test-wan' has 80; models of that size: wan2.1-1.3b",
        ),
        (
            lambda state: state.update({"head.head.bias": state["head.head.bias"].to(torch.int8)}),
            "'head.head.bias' is of type I8, the model needs floating point",
        ),
        (lambda state: state.update({"img_emb.proj.0.weight": torch.zeros(1)}), "image-to-video"),
        (
            lambda state: (state.clear(), state.update({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)})),
            "a checkpoint of another family",
        ),
    ],
    ids=["missing", "extra", "shape", "size", "type", "task", "family"],
)
def test_what_does_not_fit_is_named(damage: Damage, said: str, small: LoadedModel, tmp_path: Path) -> None:
    state = dict(small.dit.state_dict())
    damage(state)
    with pytest.raises(WeightsError, match=said):
        load_model(TEST_WAN, public.write(tmp_path, small, transformer=state))


def test_a_half_downloaded_file_is_named(small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path, small)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"{file} is truncated .*download it again"):
        load_model(TEST_WAN, folder)
    file.rename(file.with_suffix(".safetensors.incomplete"))
    with pytest.raises(WeightsError, match="the download of .* is incomplete"):
        load_model(TEST_WAN, folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1",
            "only a pointer of Git LFS: run `git lfs pull`",
        ),
        ("a.safetensors", b"<!doctype html>", "is a web page: download the file itself"),
        ("a.gguf", b"GGUF\x03", "is a GGUF file: take the safetensors"),
        ("a.safetensors", b"", r"is truncated or no safetensors file \(0 bytes\)"),
        ("a.safetensors", b"\n <html>", "is a web page"),
        ("a.safetensors", b'{"error":"Repository not found"}', "is JSON, perhaps the error message of a server"),
        ("a.safetensors", b"PK\x03\x04\x00\x00\x08\x08", "is a pickle or another zip file with a wrong name"),
        ("a.safetensors", b"\x80\x04\x95\x0a\x00\x00\x00\x00", "is a pickle with a wrong name, .* end its name in .pt"),
        ("a.safetensors", b"\x80\x02" + bytes(6) + b"{" * 700, "is truncated or no safetensors file"),
        ("a.safetensors", b"\x02" + bytes(7) + b"{}", "holds no tensors"),
        ("a.safetensors.incomplete", b"half", "the download of .* is incomplete: run it again"),
        ("a.safetensors.index.json", b"{}", "only lists the files of a checkpoint: name its folder"),
    ],
)
def test_a_file_that_is_none_of_weights_is_told_as_what_it_is(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_model(TEST_WAN, tmp_path / name)


FILES = {"transformer": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300], ids=["nan", "infinity", "overflow"])
@pytest.mark.parametrize("part", FILES)
def test_values_that_are_not_finite_are_refused_with_their_tensors_name(
    part: str, value: float, small: LoadedModel, tmp_path: Path
) -> None:
    file = public.write(tmp_path, small) / part / f"{FILES[part]}.safetensors"
    state = load_file(file)
    name = sorted(state)[len(state) // 2]
    state[name] = state[name].double()
    state[name].view(-1)[-1] = value
    save_file(state, file)
    with pytest.raises(WeightsError, match=f"{file}: tensor '{name}' contains NaN or infinity"):
        load_model(TEST_WAN, tmp_path, dtype=torch.float32)


def test_a_lora_that_is_not_finite_is_named_and_not_its_base(small: LoadedModel, tmp_path: Path) -> None:
    tensors, _ = lora(small, "base_model.model.{}.weight".format)
    spoilt = sorted(tensors)[3]
    tensors[spoilt][0, 0] = float("nan")
    folder = public.write(tmp_path, small)
    save_file(tensors, folder / "lora.safetensors")
    with pytest.raises(WeightsError, match=f"lora.safetensors: tensor '{spoilt}' contains NaN or infinity"):
        load_model(TEST_WAN, folder)


def test_a_pickle_is_never_opened(small: LoadedModel, tmp_path: Path) -> None:
    folder = public.write(tmp_path, small)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    pickle = folder / "self_forcing_dmd.pt"
    pickle.write_bytes(b"anything")
    for weights in (folder, pickle):
        with pytest.raises(WeightsError, match=f"pafu convert {pickle}"):
            load_model(TEST_WAN, weights)


def test_beside_a_single_file_only_folders_of_parts_are_looked_into(
    small: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lie in a home folder, whose other folders are large, private, or change meanwhile."""
    folder = public.write(tmp_path, small)
    home = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    home.rename(folder / "mine.safetensors")
    (folder / "photographs").mkdir()
    looked: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place=".": (looked.append(str(place)), real(place))[1])
    load_model(TEST_WAN, folder / "mine.safetensors")
    assert looked and not [place for place in looked if "photographs" in place]


def wans_vae_names() -> list[str]:
    """Names in Wan2.1_VAE.pth: blocks and resamplings are numbered consecutively, as in its ``nn.Sequential``s."""

    def residual(place: str, shortcut: bool = False) -> list[str]:
        names = [f"{place}.residual.{n}.{kind}" for n in (2, 6) for kind in ("weight", "bias")]
        names += [f"{place}.residual.{n}.gamma" for n in (0, 3)]
        return names + [f"{place}.shortcut.{kind}" for kind in ("weight", "bias") if shortcut]

    def both(*places: str) -> list[str]:
        return [f"{place}.{kind}" for place in places for kind in ("weight", "bias")]

    names = both("conv1", "conv2")
    for half in ("encoder", "decoder"):
        names += both(f"{half}.conv1", f"{half}.head.2") + [f"{half}.head.0.gamma", f"{half}.middle.1.norm.gamma"]
        names += both(f"{half}.middle.1.to_qkv", f"{half}.middle.1.proj")
        names += residual(f"{half}.middle.0") + residual(f"{half}.middle.2")
    for place in (0, 1, 3, 4, 6, 7, 9, 10):
        names += residual(f"encoder.downsamples.{place}", shortcut=place in (3, 6))
    for place in (2, 5, 8):
        names += both(f"encoder.downsamples.{place}.resample.1")
    names += both("encoder.downsamples.5.time_conv", "encoder.downsamples.8.time_conv")
    for place in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14):
        names += residual(f"decoder.upsamples.{place}", shortcut=place == 4)
    for place in (3, 7, 11):
        names += both(f"decoder.upsamples.{place}.resample.1")
    return names + both("decoder.upsamples.3.time_conv", "decoder.upsamples.7.time_conv")


def test_wans_own_vae_file_is_read_as_diffusers_converts_it() -> None:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    names = wans_vae_names()
    found = recognise(names)
    assert found is not None and found.layout.part == "vae"
    converted = convert_wan_vae_to_diffusers({name: name for name in names})
    assert len(names) == 194 and found.names == converted
    with torch.device("meta"):
        assert found.names.keys() == build("wan2.1", WAN_1_3B).vae.state_dict().keys()
