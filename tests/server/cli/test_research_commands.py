"""Promises: ``pafu distill salience``, ``pafu distill long`` and ``pafu eval`` report errors in one line; an option
that is not given has the default of its setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.distill.evaluation.compare import EvalSettings
from model.distill.stages.long_stage import LongSettings
from model.distill.stages.salience_stage import SalienceSettings
from server.cli.distill import LongOptions, SalienceOptions, three_weights
from server.cli.evaluate import TourOptions
from server.cli.main import app

PROMPTS = __file__  # any text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", "salience", "--teacher", "nowhere"], "model.json is missing: nowhere is not a folder"),
        (["distill", "salience", "--teacher", "nowhere", "--loss", "magic"], "loss is 'magic'; known: regression"),
        (["distill", "salience", "--teacher", "nowhere", "--weights", "1,2"], "weights is '1,2'; give three numbers"),
        (["distill", "salience", "--teacher", "nowhere", "--model", "self-forcing"], "give a file of prompts"),
        (["distill", "long", "--model", "longlive"], "'longlive' has no world of its own: give a file of prompts"),
        (["eval", "--model", "self-forcing"], "needs prompts: write one per line (--prompts)"),
        (["eval", "--minutes", "1"], "--minutes are for models without a camera; pafu-mini is evaluated on tours"),
        (["distill", "long", "--policy", "lru"], "unknown cache policy 'lru'; known policies: full"),
        (
            ["distill", "long", "--policy", "fov", "--model", "test-wan", "--prompts", PROMPTS],
            "policy 'fov' chooses by what the camera sees, and model 'test-wan' has no camera",
        ),
        (
            ["eval", "--policies", "window,retrieval", "--model", "test-wan", "--prompts", PROMPTS],
            "policy 'retrieval' chooses by what the camera sees, and model 'test-wan' has no camera",
        ),
        (["distill", "long", "--budget", "0.5"], "cannot hold 0.0 sink + 1.0 recent latent frames"),
        (["distill", "long", "--model", "gpt"], "unknown model 'gpt'"),
        (["eval", "--tours", "0", "--policies", "lru"], "unknown policy 'lru'; known: full"),
        (["eval", "--policies", "lru"], "unknown policy 'lru'; known: full"),
        (["eval", "--budgets", "one"], "budgets is 'one'; give latent frames like 1,1.5,2"),
        (["eval", "--head", "nowhere.safetensors"], "nowhere.safetensors is missing: train a head"),
        (["eval", "--model", "test-wan", "--size", "100x64"], "width: 100 is not a multiple of 16 (VAE and patch)"),
        (["eval", "--model", "test-wan", "--size", "big"], "size is 'big'; give WIDTHxHEIGHT like 832x480"),
        (
            ["eval", "--model", "wan2.1-14b", "--size", "4096x4096", "--prompts", PROMPTS],
            "no weights ship with model 'wan2.1-14b': name Wan-AI/Wan2.1-T2V-14B",
        ),
        (
            ["eval", "--model", "test-wan", "--size", "4096x4096", "--prompts", PROMPTS],
            "not enough memory for test-wan on cpu: one session needs",
        ),
        (
            ["distill", "salience", "--teacher", "a/b", "--model", "test-wan", "--prompts", PROMPTS],
            "a/b is no path, and was not pulled yet: run `pafu pull a/b`",
        ),
        (
            ["distill", "long", "--model", "test-wan", "--size", "96x63", "--prompts", PROMPTS],
            "63 is not a multiple of",
        ),
        (
            ["distill", "long", "--model", "wan2.1-14b", "--prompts", PROMPTS],
            ", which fits on no card up to 80 GB; reduce --remembered, --streams, --budget or --size",
        ),
        (["eval", "--probe", "nowhere"], "does not exist; run `pafu distill mini --stage probe"),
        (
            ["distill", "salience", "--teacher", "nowhere", "--device", "banana"],
            "'banana' is unknown; allowed: cpu, cuda",
        ),
        (["distill", "long", "--device", "banana"], "device 'banana' is unknown; allowed: cpu, cuda"),
        (["eval", "--device", "banana"], "device 'banana' is unknown; allowed: cpu, cuda"),
        (["distill", "mini", "--device", "banana"], "device 'banana' is unknown; allowed: cpu, cuda"),
        (["eval", "--device", "cuda:99"], "device 'cuda:99' was requested, but torch"),
        (["bench", "--suite", "gpu", "--device", "cpu+cpu"], "the suite measures one device, not 'cpu+cpu'"),
        (["bench", "--suite", "gpu", "--device", "cuda:99"], "'cuda:99' was requested, but torch"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--threads", "1"])
    assert run.exit_code != 0 and run.exception is None or isinstance(run.exception, SystemExit)
    said = " ".join(run.stderr.split())
    assert "pafu: error:" in said and message in said, said


@pytest.mark.parametrize(
    ("options", "settings"),
    [(SalienceOptions, SalienceSettings), (LongOptions, LongSettings), (TourOptions, EvalSettings)],
)
def test_an_option_that_is_not_given_has_the_default_of_its_setting(options, settings) -> None:
    expected = {field.name: field.default for field in fields(settings)}
    declared = {field.name: field.default for field in fields(options)}
    if "weights" in declared:
        declared["weights"] = three_weights(declared["weights"])
    assert declared.keys() <= expected.keys()
    restated = {name: value for name, value in declared.items() if value is not None}
    assert restated == {name: expected[name] for name in restated}
