"""export writes steers in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.mix import Mix
from tiny import matrix_of, random_steer


@pytest.fixture
def mixed(run, tiny_folder):
    lm = load(tiny_folder)
    steers = {"a": random_steer(lm, name="a", seed=1), "b": random_steer(lm, name="b", seed=2)}
    for name, steer in steers.items():
        save_steer(steer, f"steers/{name}")
    return lm, Mix(steers, {"a": 2.0, "b": -1.0})


@torch.inference_mode()
def test_a_merged_export_loads_without_lmsteer(run, mixed):
    lm, mix = mixed
    status, out, _ = run("export", "a=2", "b=-1", "--to", "merged", "--out", "m")
    assert status == 0
    assert "a=2 b=-1 written to" in out
    ids = torch.arange(3, 9)[None]
    with lm.steered(mix):
        expected = lm.model(ids).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained("m")(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_lora_goes_out_and_comes_back(run, mixed):
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    _, mix = mixed
    status, out, _ = run("export", "a=2", "b=-1", "--to", "lora", "--out", "l", "--json")
    assert status == 0
    assert json.loads(out) == {"out": "l", "to": "lora", "strengths": {"a": 2.0, "b": -1.0}}
    status, out, _ = run("import", "l", "--name", "back")
    assert status == 0
    assert out.startswith("0.0% of the LoRA's change")
    torch.testing.assert_close(load_steer("steers/back").matrix(), matrix_of(mix), rtol=1e-4, atol=1e-4)


def test_an_adapter_goes_beside_an_untied_base(run, cache, tiny_gguf):
    lm = load(tiny_gguf)
    save_steer(random_steer(lm, name="a"), "steers/a")
    status, out, _ = run("export", "--to", "gguf-base", "--gguf", str(tiny_gguf), "--out", "base.gguf", "--json")
    assert status == 0
    assert json.loads(out) == {"out": "base.gguf", "to": "gguf-base", "strengths": {}}
    line = ["export", "a=1", "--to", "gguf-lora", "--out", "a.gguf", "--model", str(tiny_gguf)]
    status, _, err = run(*line, model=False)
    assert status == 2
    assert "no output tensor of its own" in err
    status, out, _ = run(*line, "--gguf", "base.gguf", model=False)
    assert status == 0
    assert "a=1 written to a.gguf" in out
    assert Path("a.gguf").read_bytes().startswith(b"GGUF")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["a=2", "--to", "onnx", "--out", "m"], "'merged', 'lora', 'gguf'"),
        (["a=2", "--to", "gguf", "--out", "m.gguf"], "name it with --gguf"),
        (["a=2", "--to", "merged", "--out", "m", "--gguf", "base.gguf"], "is for --to gguf"),
        (["a=2", "--to", "lora", "--out", "m", "--output-type", "f32"], "is for --to gguf"),
        (["a=2", "--to", "gguf", "--out", "m.gguf", "--gguf", "none.gguf"], "no such file: none.gguf"),
        (["a=1,2", "--to", "lora", "--out", "m"], "one strength of each"),
        (["a=1", "--to", "gguf-base", "--out", "m.gguf"], "without steers"),
        (["--to", "lora", "--out", "m"], "name the steers to export"),
        (["a=1", "--to", "gguf-base", "--out", "m.gguf", "--output-type", "f16"], "--to gguf and --to gguf-lora"),
        (["c=1", "--to", "lora", "--out", "m"], "c"),
        (["a=1", "--to", "merged", "--out", "steers"], "holds no merged model"),
        (["a=1", "--to", "lora", "--out", "steers"], "holds no LoRA"),
    ],
)
def test_what_cannot_go_out_is_refused(run, mixed, line, message):
    status, _, err = run("export", *line)
    assert status == 2
    assert message in err
    assert not Path("m").exists()
