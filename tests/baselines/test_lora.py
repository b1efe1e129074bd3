"""Which layers a LoRA has, and that it does what PEFT does with the same factors."""

from __future__ import annotations

import pytest
import torch

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.errors import ModelError
from lmsteer.model.lora import from_tensors, lora_update
from lmsteer.util.provenance import provenance_of
from tiny import FAMILIES, tiny_lm, tiny_model


def learnt(lm, targets, rank=3):
    trainer = LoRATrainer(lm, targets, rank)
    drawn = torch.Generator().manual_seed(0)
    for factor in trainer.trainable():
        factor.data.copy_(torch.randn(factor.shape, generator=drawn) / 4)
    return trainer.baseline(BaselineCard(method="lora", **provenance_of(lm)))


def layers_of(baseline):
    return sorted(from_tensors(baseline.tensors))


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
def test_strength_1_is_the_model_with_the_update_added_to_its_weights(make_lm, family, targets):
    lm = make_lm(family)
    baseline, other = learnt(lm, targets), tiny_model(family)
    if targets == "head":  # with a weight of its own, or the embedding would move too
        other.get_output_embeddings().weight = torch.nn.Parameter(other.get_output_embeddings().weight.clone())
    for name, factors in from_tensors(baseline.tensors).items():
        module = other.get_submodule(name)
        module.weight.add_(lora_update(module, factors))
    ids = torch.arange(3, 15).reshape(2, 6)
    with baseline.at(lm, [1.0]):
        logits = lm.model(ids).logits
    torch.testing.assert_close(logits, other(ids).logits, rtol=1e-3, atol=1e-3)  # float32: sums in another order
    assert not torch.allclose(logits, lm.model(ids).logits, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
@torch.inference_mode()
def test_peft_does_the_same_with_the_same_factors(make_lm, family):
    peft = pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    lm = make_lm(family)
    baseline = learnt(lm, "all")
    layers = from_tensors(baseline.tensors)
    rank = len(next(iter(layers.values())).lora_A)
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(layers), fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM"
    )
    other = peft.get_peft_model(tiny_model(family), config).eval()
    for name, factors in layers.items():
        module = other.base_model.model.get_submodule(name)
        module.lora_A["default"].weight.copy_(factors.lora_A)
        module.lora_B["default"].weight.copy_(factors.lora_B)
    ids = torch.arange(3, 15).reshape(2, 6)
    with baseline.at(lm, [1.0]):
        logits = lm.model(ids).logits
    torch.testing.assert_close(logits, other(input_ids=ids).logits, rtol=1e-4, atol=1e-4)  # float32: other sums
