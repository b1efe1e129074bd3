"""Which layers a LoRA is of, and that it is what PEFT makes of the same factors."""

from __future__ import annotations

import pytest
import torch

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.errors import ModelError
from lmsteer.util.provenance import provenance_of
from tiny import FAMILIES, tiny_lm, tiny_model


def learnt(lm, targets, rank=3):
    trained = LoRATrainer(lm, targets, rank)
    drawn = torch.Generator().manual_seed(0)
    for factor in trained.trainable():
        factor.data.copy_(torch.randn(factor.shape, generator=drawn) / 4)
    return trained.baseline(BaselineCard(method="lora", **provenance_of(lm)))


def layers_of(baseline):
    return sorted({name.rpartition(".")[0] for name in baseline.tensors})


def test_presets_and_names_of_layers(llama, make_lm):
    assert layers_of(learnt(llama, "value")) == ["model.layers.1.self_attn.v_proj"]
    assert layers_of(learnt(llama, "head")) == ["lm_head"]
    assert layers_of(learnt(llama, "o_proj")) == [f"model.layers.{n}.self_attn.o_proj" for n in (0, 1)]
    assert len(layers_of(learnt(llama, "all"))) == 14
    assert all("lm_head" not in name for name in layers_of(learnt(make_lm("gpt2"), "all")))
    with pytest.raises(ModelError, match="no linear layers 'value'"):
        LoRATrainer(make_lm("gpt2"), "value")  # keys and values come out of one product
    with pytest.raises(ModelError, match="no linear layers 'magic'"):
        LoRATrainer(llama, "magic")


def test_a_model_whose_weights_are_mostly_experts_is_refused(monkeypatch):
    sizes = {**FAMILIES["llama"], "num_local_experts": 8, "num_experts_per_tok": 2}
    monkeypatch.setitem(FAMILIES, "mixtral", sizes)
    lm = tiny_lm("mixtral")
    with pytest.raises(ModelError, match="no linear layers"):
        LoRATrainer(lm, "all")
    assert LoRATrainer(lm, "q_proj").trainable()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("targets", ["all", "head"])
@torch.inference_mode()
def test_it_is_the_sum_of_the_layers_and_their_factors(make_lm, family, targets):
    """Strength 1 in flight is the model with B A added to its weights."""
    lm = make_lm(family)
    baseline, other = learnt(lm, targets), tiny_model(family)
    if targets == "head":  # with a weight of its own, or the embedding would move too
        other.get_output_embeddings().weight = torch.nn.Parameter(other.get_output_embeddings().weight.clone())
    for name in layers_of(baseline):
        module = other.get_submodule(name)
        update = baseline.tensors[f"{name}.up"] @ baseline.tensors[f"{name}.down"]
        module.weight.add_(update if update.shape == module.weight.shape and "c_" not in name else update.T)
    ids = torch.arange(3, 15).reshape(2, 6)
    with baseline.at(lm, [1.0]):
        found = lm.model(ids).logits
    torch.testing.assert_close(found, other(ids).logits, rtol=1e-3, atol=1e-3)  # float32: sums in another order
    assert not torch.allclose(found, lm.model(ids).logits, atol=1e-2)
