"""A merged checkpoint is a plain transformers folder whose logits are the steered ones, or it is not written."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmsteer.errors import ModelError, SteerError, WrongBaseError
from lmsteer.export import merged as module
from lmsteer.export import updates
from lmsteer.export.merged import export_merged
from lmsteer.export.updates import merged_head
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import all_sites
from lmsteer.steer.steer import Steer
from tiny import FAMILIES, inner_steer, matrix_of, random_steer, tiny_lm

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
    model = AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, tmp_path / "m", check=True)).eval()
    # float32: E (I + W)ᵀ h is one product, and E (h + h W) are two
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-2)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, lm.model.get_input_embeddings().weight)
    # the model itself is unchanged
    assert lm.model.config.tie_word_embeddings == tied
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
    assert torch.equal(lm.model(IDS).logits, plain)
    assert tied == (lm.model.get_input_embeddings().weight is lm.head.module.weight)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_transformers_alone_gives_the_logits_of_a_steer_inside_the_model(tmp_path, family):
    lm = tiny_lm(family)
    before, plain = {name: each.clone() for name, each in lm.model.named_parameters()}, lm.model(IDS).logits
    sites = [site.name for site in all_sites(lm.model).values() if site.is_weight and "dt_proj" not in site.name]
    mix = Mix({"a": inner_steer(lm, sites, head=True), "b": inner_steer(lm, sites[:2], seed=2)}, {"a": 1.5, "b": -0.5})
    with lm.steered(mix):
        expected = lm.model(IDS).logits
    model = AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, tmp_path / "m", check=True)).eval()
    # float32: (W + B A) x is one product, and W x + B (A x) are two
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(expected, plain, atol=1e-2)
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())


@torch.inference_mode()
def test_half_precision_is_kept(tmp_path):
    lm = tiny_lm("llama", torch.bfloat16)
    mix = Mix({"s": random_steer(lm)}, {"s": 1.0})
    model = AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, tmp_path / "m"), dtype="auto")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.get_output_embeddings().weight, merged_head(lm, mix))


@pytest.fixture
def mix(llama):
    return Mix({"s": random_steer(llama)}, {"s": 1.0})


def test_merged_head_is_the_product_with_the_matrix(llama, monkeypatch):
    monkeypatch.setattr(updates, "_ROWS", 100)  # so that the tiny head has several parts
    mix = Mix({"a": random_steer(llama, seed=1), "b": random_steer(llama, seed=2)}, {"a": 1.5, "b": -0.5})
    e = llama.head.weight.double()
    expected = e @ (torch.eye(e.shape[1]).double() + matrix_of(mix).double()).T
    torch.testing.assert_close(merged_head(llama, mix).double(), expected, rtol=1e-5, atol=1e-5)


def test_no_second_model_and_no_matrix_of_the_steer_is_made(llama, mix, tmp_path, monkeypatch):
    """Of an 8B model each would take gigabytes on the device."""

    def too_large(*_, **__):
        raise AssertionError("this does not fit on the device")

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", too_large)
    monkeypatch.setattr(Steer, "matrix", too_large)
    assert (export_merged(llama, mix, tmp_path / "m") / "model.safetensors").exists()


def test_out_of_memory_is_not_reported_as_a_fault_of_the_disk(llama, mix, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(ModelError, match="out of memory"):
        export_merged(llama, mix, tmp_path / "m", check=True)
    monkeypatch.setattr(llama.model, "save_pretrained", full)
    with pytest.raises(ModelError, match="out of memory"):
        export_merged(llama, mix, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_that_transformers_does_not_save_is_reported(llama, mix, tmp_path, monkeypatch):
    def shared(*_, **__):
        raise RuntimeError("some tensors share memory")

    monkeypatch.setattr(llama.model, "save_pretrained", shared)
    with pytest.raises(SteerError, match="share memory"):
        export_merged(llama, mix, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_mix_that_is_not_one_map_is_refused(make_lm, tmp_path):
    lm = make_lm("llama")
    steer = random_steer(lm)
    add = Steer("add", {"a": torch.ones(steer.hidden_size)}, steer.hidden_size, steer.vocabulary, steer.card)
    for wrong in (Mix({"a": add}, {"a": 1.0}), Mix({"s": steer}, {"s": [1.0, 2.0]})):
        with pytest.raises(SteerError, match="form multiply, with one strength"):
            export_merged(lm, wrong, tmp_path / "m")
    with pytest.raises(WrongBaseError):
        export_merged(make_lm("qwen2"), Mix({"s": steer}, {"s": 1.0}), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_only_an_earlier_export_is_overwritten(llama, mix, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    (tmp_path / "model").mkdir()
    llama.model.config.save_pretrained(tmp_path / "model")
    for folder in ("thesis", "model"):
        with pytest.raises(SteerError, match="exists and holds no merged model"):
            export_merged(llama, mix, tmp_path / folder)
    export_merged(llama, mix, tmp_path / "twice")
    export_merged(llama, mix, tmp_path / "twice")
    (tmp_path / "twice" / "thesis.txt").touch()
    with pytest.raises(SteerError, match=r"holds thesis\.txt beside its merged model"):
        export_merged(llama, mix, tmp_path / "twice")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "thesis", "twice"]


def test_checkpoint_with_other_logits_is_refused(llama, mix, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "merged_head", lambda lm, mix: lm.head.weight.clone())
    with pytest.raises(SteerError, match="comes back with logits that differ"):
        export_merged(llama, mix, tmp_path / "m", check=True)
    assert not (tmp_path / "m").exists()


def test_model_that_is_always_tied_is_refused(tmp_path, monkeypatch):
    """Its embedding and its head would come back as one."""
    lm = tiny_lm("gpt2")
    build = AutoModelForCausalLM.from_config

    def tying(*args, **options):
        model = build(*args, **options)
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        return model

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_config", tying)
    with pytest.raises(SteerError, match="cannot have a head of its own"):
        export_merged(lm, Mix({"s": random_steer(lm)}, {"s": 1.0}), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert lm.model.config.tie_word_embeddings
