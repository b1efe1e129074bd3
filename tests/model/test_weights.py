"""Weights that are changed for a while: what they are meanwhile, and that nothing stays."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import ModelError, WrongBaseError
from lmsteer.model.weights import temporary_update
from tiny import tiny_lm

NAME = "model.layers.0.mlp.up_proj.weight"


def logits(lm):
    return lm.model(torch.arange(3, 9)[None]).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_weights_are_changed_within_the_block_and_the_same_after_it(dtype):
    lm = tiny_lm("llama", dtype)
    before, plain = dict(lm.model.named_parameters()), logits(lm)
    values = {name: parameter.clone() for name, parameter in before.items()}
    change = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    with temporary_update(lm.model, {NAME: change}.items(), -0.5):
        changed = dict(lm.model.named_parameters())[NAME]
        assert torch.equal(changed, (values[NAME].float() - 0.5 * change).to(dtype))  # rounded once
        assert changed.stride() == before[NAME].stride()
        assert not torch.equal(logits(lm), plain)
    assert list(lm.model.named_parameters()) == list(before.items())
    assert all(torch.equal(parameter, values[name]) for name, parameter in lm.model.named_parameters())
    assert torch.equal(logits(lm), plain)


def test_an_error_inside_leaves_the_weights_as_they_were(llama):
    before = dict(llama.model.named_parameters())
    with pytest.raises(RuntimeError, match="within"), temporary_update(llama.model, {NAME: torch.ones(48, 32)}.items()):
        raise RuntimeError("within")
    assert list(llama.model.named_parameters()) == list(before.items())


def test_tied_weights_change_together_and_gradients_reach_the_change(make_lm):
    lm = make_lm("gpt2")
    change = torch.zeros(lm.head.weight.shape, requires_grad=True)
    with temporary_update(lm.model, {"transformer.wte.weight": change}.items(), 2.0):
        assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
        logits(lm).sum().backward()
    assert change.grad[40].abs().sum() > 0  # an id that is in no input: through the head
    assert not lm.model.get_input_embeddings().weight.requires_grad


def test_updates_that_do_not_suit_the_model_are_refused_and_leave_it_as_it_was(make_lm):
    lm = make_lm("gpt2")
    before, good = dict(lm.model.named_parameters()), ("transformer.wpe.weight", torch.ones(128, 32))
    embedding = torch.zeros(lm.head.weight.shape)
    for updates, error, message in (
        ([good, ("nothing", torch.ones(1))], WrongBaseError, "does not have the weight 'nothing'"),
        ([good, ("transformer.ln_f.weight", torch.ones(31))], WrongBaseError, r"for a weight of \(31,\)"),
        ([("transformer.wte.weight", embedding), ("lm_head.weight", embedding)], ModelError, "share the weight"),
    ):
        with pytest.raises(error, match=message), temporary_update(lm.model, updates):
            pass
        assert list(lm.model.named_parameters()) == list(before.items())


def test_quantised_weights_are_refused():
    lm = tiny_lm("llama")
    layer = lm.model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(torch.zeros(48, 32, dtype=torch.uint8), requires_grad=False)
    with (
        pytest.raises(ModelError, match="load the model unquantised"),
        temporary_update(lm.model, {NAME: torch.ones(48, 32)}.items()),
    ):
        pass
