"""A merged checkpoint is a plain transformers folder whose logits are the steered ones, or it is not written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.export import merged as module
from lmsteer.export.merged import export_merged, merged_head
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from tiny import FAMILIES, random_steer, tiny_lm, tiny_model

IDS = torch.arange(3, 15).reshape(2, 6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_transformers_alone_gives_the_steered_logits(tmp_path, family):
    lm = tiny_lm(family)
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    tied, plain = lm.model.config.tie_word_embeddings, lm.model(IDS).logits
    mix = Mix({"a": random_steer(lm, seed=1), "b": random_steer(lm, seed=2)}, {"a": 1.5, "b": -0.5})
    with lm.steered(mix):
        expected = lm.model(IDS).logits
    model = AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, tmp_path / "m")).eval()
    # float32: E (I + W)ᵀ h in one product in place of two
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-2)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, lm.model.get_input_embeddings().weight)
    # the model at hand is what it was
    assert lm.model.config.tie_word_embeddings == tied
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
    assert torch.equal(lm.model(IDS).logits, plain)
    assert tied == (lm.model.get_input_embeddings().weight is lm.head.module.weight)


@torch.inference_mode()
def test_half_precision_is_kept(tmp_path):
    lm = tiny_lm("llama", torch.bfloat16)
    mix = Mix({"s": random_steer(lm)}, {"s": 1.0})
    model = AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, tmp_path / "m"), dtype="auto")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.get_output_embeddings().weight, merged_head(lm, mix))


def test_what_cannot_be_merged_is_refused_and_nothing_written(make_lm, tmp_path, monkeypatch):
    lm = make_lm("llama")
    steer = random_steer(lm)
    mix = Mix({"s": steer}, {"s": 1.0})
    add = Steer("add", {"a": torch.ones(steer.hidden_size)}, steer.hidden_size, steer.vocabulary, steer.card)
    for wrong in (Mix({"a": add}, {"a": 1.0}), Mix({"s": steer}, {"s": [1.0, 2.0]})):
        with pytest.raises(SteerError, match="form multiply, with one strength"):
            export_merged(lm, wrong, tmp_path / "m")
    with pytest.raises(WrongBaseError):
        export_merged(make_lm("qwen2"), mix, tmp_path / "m")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    with pytest.raises(SteerError, match="is no export of lmsteer"):
        export_merged(lm, mix, tmp_path / "thesis")
    (tmp_path / "model").mkdir()
    lm.model.config.save_pretrained(tmp_path / "model")
    with pytest.raises(SteerError, match="is no export of lmsteer"):
        export_merged(lm, mix, tmp_path / "model")
    export_merged(lm, mix, tmp_path / "twice")
    export_merged(lm, mix, tmp_path / "twice")
    (tmp_path / "twice" / "thesis.txt").touch()
    with pytest.raises(SteerError, match=r"holds thesis\.txt beside its export"):
        export_merged(lm, mix, tmp_path / "twice")
    monkeypatch.setattr(module, "merged_head", lambda lm, mix: lm.head.weight.clone())
    with pytest.raises(SteerError, match="comes back with logits"):
        export_merged(lm, mix, tmp_path / "m")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "thesis", "twice"]


def test_a_model_that_ties_whatever_it_is_told_is_refused(tmp_path, monkeypatch):
    """Its embeddings and its head would come back as one."""
    lm = tiny_lm("gpt2")
    loads = AutoModelForCausalLM.from_pretrained

    def tying(*args, **options):
        model = loads(*args, **options)
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        return model

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", tying)
    with pytest.raises(SteerError, match="cannot have a head of its own"):
        export_merged(lm, Mix({"s": random_steer(lm)}, {"s": 1.0}), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert replace(lm, model=tiny_model("gpt2")).model.config.tie_word_embeddings
