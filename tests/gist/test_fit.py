"""Fits of gist adapters: what they learn goes through the gist, and the model stays as it is."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.gist.adapter import load_adapter
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.examples import encode_examples, prompt_ids
from lmsteer.gist.fit import fit_gist
from lmsteer.gist.forward import output_loss
from lmsteer.gist.model import GistModel
from lmsteer.gist.training import forked_random_states


def test_a_fit_learns_what_goes_through_the_gist_alone(fitted):
    metrics = fitted.adapter.card.held_out
    assert metrics["gist"] < 0.4 * metrics["negative"]
    assert [line["step"] for line in metrics["curve"]] == [40, 80]
    assert metrics["curve"][-1]["gist"] == pytest.approx(metrics["gist"], abs=0.02)  # then rounded to bfloat16
    assert fitted.adapter.card.fit["condition"] == "gist"


def test_a_control_that_sees_no_prompt_learns_nothing_of_it(llama, copying, learning, tmp_path):
    config = replace(learning, steps=30, condition=GistCondition.NEGATIVE)
    adapter = fit_gist(llama, copying(64), tmp_path / "n", config=config, held_out=copying(16, seed=1))
    letter = torch.log(torch.tensor(2.0)) / 2  # of two tokens, the letter and the end
    assert adapter.card.held_out["negative"] > 0.8 * float(letter)
    # Nor has it learned to make anything of a prompt that it is shown.
    loaded = load_adapter(tmp_path / "n")
    examples = encode_examples(llama, copying(16, seed=1), 2)
    with torch.inference_mode(), loaded.installed(llama):
        assert output_loss(llama, loaded.ids(llama), examples, GistCondition.GIST) > 0.8 * float(letter)
    assert [*adapter.card.held_out] == ["negative", "curve"]
    assert loaded.condition is GistCondition.NEGATIVE


def test_a_control_that_sees_the_prompt_learns_to_read_it(llama, copying, learning, tmp_path):
    config = replace(learning, steps=40, condition=GistCondition.POSITIVE)
    adapter = fit_gist(llama, copying(64), tmp_path / "p", config=config, held_out=copying(16, seed=1))
    assert adapter.card.held_out["positive"] < 0.1
    assert adapter.card.fit["condition"] == "positive"


def test_the_saved_adapter_is_the_trained_one(llama, copying, fitted):
    adapter, folder = fitted
    loaded = load_adapter(folder)
    assert loaded.fingerprint == adapter.fingerprint
    assert loaded.card.held_out["gist"] == adapter.card.held_out["gist"]
    examples = encode_examples(llama, copying(16, seed=1), 2)
    with torch.inference_mode(), loaded.installed(llama):
        loss = output_loss(llama, loaded.ids(llama), examples, GistCondition.GIST)
    assert loss == pytest.approx(adapter.card.held_out["gist"], abs=1e-6)
    assert sorted(entry.name for entry in folder.iterdir()) == ["gist.json", "gist.safetensors"]
    assert not folder.with_name("a.partial").exists()


def test_full_fine_tuning_learns_it_too_and_leaves_the_model_as_it_was(llama, copying, tmp_path):
    before = dict(llama.model.named_parameters())
    values = {name: parameter.clone() for name, parameter in before.items()}
    config = GistConfig(tokens=2, full=True, steps=40, batch_size=8, learning_rate=5e-3, eval_steps=40)
    adapter = fit_gist(llama, copying(64), tmp_path / "f", config=config, held_out=copying(16, seed=1))
    assert list(llama.model.named_parameters()) == list(before.items())
    assert all(torch.equal(parameter, values[name]) for name, parameter in before.items())
    assert not any(parameter.requires_grad for parameter in before.values())
    assert adapter.changes.keys() == before.keys() - {"model.embed_tokens.weight", "lm_head.weight"}
    assert not adapter.lora
    metrics = adapter.card.held_out
    assert metrics["gist"] < 0.4 * metrics["negative"]
    assert metrics["curve"][-1]["gist"] == pytest.approx(metrics["gist"], abs=0.02)  # then rounded to bfloat16
    loaded = load_adapter(tmp_path / "f")
    assert loaded.fingerprint == adapter.fingerprint
    with loaded.installed(llama):
        now = dict(llama.model.named_parameters())
        assert {name for name in before if not torch.equal(now[name], values[name])} == adapter.changes.keys()
    assert all(parameter is before[name] for name, parameter in llama.model.named_parameters())
    other = replace(adapter, changes={"model.layers.7.weight": torch.zeros(2)})
    with pytest.raises(WrongBaseError, match="does not have the weight"), other.installed(llama):
        pass


def test_a_fit_keeps_the_callers_random_states(llama, copying, tmp_path):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    fit_gist(llama, copying(8), tmp_path / "r", config=GistConfig(rank=2, steps=2, batch_size=4))
    assert states() == before


def test_a_fit_on_a_cpu_asks_for_no_gpu(llama, monkeypatch):
    """Without a list of devices, ``fork_rng`` would open a context on every GPU that is visible."""
    asked, fork = [], torch.random.fork_rng

    def noted(devices=None, *args, **options):
        asked.append(devices)
        return fork(devices, *args, **options)

    monkeypatch.setattr(torch.random, "fork_rng", noted)
    with forked_random_states(GistModel(llama, GistConfig(rank=2))):
        pass
    assert asked == [[]]


def test_fits_that_are_impossible_are_refused(llama, make_lm, copying, tmp_path):
    with pytest.raises(ModelError, match="keeps a state"):
        fit_gist(make_lm("mamba"), copying(4), tmp_path / "m")
    gpt2 = make_lm("gpt2")
    with pytest.raises(DataError, match="no instruction fits"):
        fit_gist(gpt2, [Instruction("a" * 200, "", "b")] * 2, tmp_path / "g")
    assert len(encode_examples(gpt2, [Instruction("a" * 200, "", "b"), *copying(1)], 1)) == 1
    with pytest.raises(DataError, match="two instructions or more, not 1"):
        fit_gist(llama, copying(1), tmp_path / "e")
    with pytest.raises(DataError, match="no instruction fits"):
        fit_gist(gpt2, copying(4), tmp_path / "h", held_out=[Instruction("a" * 200, "", "b")])
    with pytest.raises(DataError, match="diverged"):
        fit_gist(llama, copying(4), tmp_path / "d", config=GistConfig(steps=3, learning_rate=1e30))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds no gist adapter"):
        fit_gist(llama, copying(4), tmp_path / "full")
    assert prompt_ids(llama, ["do it"]) == llama.encode(["Instruction: do it\n"])
