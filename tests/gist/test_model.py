"""The trainable part of a fit: its losses, its gradients, and that an installed adapter does the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.data.instructions import Instruction
from lmsteer.errors import ModelError
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.examples import encode_examples, example_layout
from lmsteer.gist.forward import masked_hidden_states, output_log_likelihoods
from lmsteer.gist.lookup import GistCard
from lmsteer.gist.model import GistModel
from lmsteer.util.provenance import provenance_of
from tiny import tiny_lm, tiny_model

SMALL = GistConfig(tokens=2, rank=4)


def trained(lm, config=SMALL):
    """As if trained: random weights, rounded as adapters keep them."""
    model, drawn = GistModel(lm, config), torch.Generator().manual_seed(1)
    for parameter in model.weights.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=drawn) / 8).bfloat16().float()
    return model


def likelihoods(lm, model, copying):
    """Of the same examples: beside the frozen model, and under the adapter that is saved."""
    examples = encode_examples(lm, copying(8), 2)
    adapter = model.adapter(GistCard(**provenance_of(lm), tokens=2))
    with torch.no_grad():
        beside = model.log_likelihoods(examples)
        with adapter.installed(lm):
            installed = output_log_likelihoods(lm, adapter.ids(lm), examples, GistCondition.GIST)
    return beside, installed


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "opt"])
def test_an_installed_adapter_does_what_was_trained(make_lm, copying, family):
    beside, installed = likelihoods(make_lm(family), trained(make_lm(family)), copying)
    torch.testing.assert_close(installed, beside, rtol=1e-4, atol=1e-4)  # float32: one product in place of two


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_half_precision_an_installed_adapter_does_exactly_what_was_trained(copying, family):
    """Merged into the weights, much of the update would round away."""
    lm = tiny_lm(family, torch.bfloat16)
    beside, installed = likelihoods(lm, trained(lm), copying)
    assert torch.equal(installed, beside)


def test_in_half_precision_full_fine_tuning_acts_when_installed(copying):
    lm = tiny_lm("llama", torch.bfloat16)
    beside, installed = likelihoods(lm, trained(lm, replace(SMALL, full=True)), copying)
    assert torch.equal(installed, beside)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_that_nobody_sees_need_not_be_there(make_lm, copying, family):
    lm = make_lm(family)
    model = GistModel(lm, replace(SMALL, condition=GistCondition.NEGATIVE))
    examples = encode_examples(lm, [*copying(3), Instruction("a much longer instruction", "x", "ok")], 2)
    with torch.no_grad(), model.installed():
        without = model.log_likelihoods(examples)
        layout, targets = example_layout(lm, examples, model.gist_ids)
        h = masked_hidden_states(lm, layout, GistCondition.NEGATIVE)[:, :-1][targets[:, 1:]]
        expected = lm.head.log_likelihood(h, layout.ids[:, 1:][targets[:, 1:]])
    torch.testing.assert_close(without, expected, rtol=1e-4, atol=1e-4)  # float32: other shapes


def test_padding_changes_no_loss(llama, copying):
    model = GistModel(llama, SMALL)
    examples = encode_examples(llama, [*copying(3), Instruction("a much longer instruction", "", "ok")], 2)
    with torch.no_grad():
        together = model.log_likelihoods(examples)
        alone = torch.cat([model.log_likelihoods([each]) for each in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)  # float32: other shapes


@pytest.mark.parametrize("full", [False, True])
def test_a_batch_of_long_examples_is_computed_in_parts_with_the_same_gradients(llama, full):
    examples = encode_examples(llama, [Instruction(f"say {k}" * k, "", "yes" * k) for k in range(1, 7)], 1)
    results = []
    for tokens in (10_000, 40):
        model = GistModel(llama, GistConfig(1, full=full, tokens_per_microbatch=tokens))
        loss = model(examples)["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert len(results[0]) > 3
    for whole, parts in zip(*results, strict=True):
        # float32: rows of other paddings, sums in another order
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    assert any(gradient.abs().sum() > 0 for gradient in results[0][1:])


def test_quantised_weights_are_refused(make_lm):
    lm = replace(make_lm("llama"), model=tiny_model("llama"))
    layer = lm.model.model.layers[0].self_attn.q_proj
    for weight in (torch.zeros(512, 1, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.float8_e4m3fn)):
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        for config in (SMALL, replace(SMALL, full=True)):
            with pytest.raises(ModelError, match="load the model unquantised"):
                GistModel(lm, config)
