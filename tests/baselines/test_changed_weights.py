"""Baselines that change weights: what they do is what a model with those weights does."""

from __future__ import annotations

import pytest
import torch

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.full import FullTrainer
from lmsteer.baselines.methods import fit_baseline
from lmsteer.util.provenance import provenance_of
from tiny import styled, tiny_lm

pytest.importorskip("peft", reason="the extra 'methods' is not installed")
TEXTS = styled(60)
FEW_STEPS = TrainingBudget(steps=4, batch_size=8)


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "llama"])
@pytest.mark.parametrize("method", ["embeddings", "full"])
def test_changed_weights_are_what_a_model_with_those_weights_does(method, family):
    """Tied and untied heads, and embeddings that the model scales."""
    lm, other = tiny_lm(family), tiny_lm(family)
    baseline = fit_baseline(lm, method, TEXTS, budget=FEW_STEPS)
    ids = torch.tensor(lm.encode([text.text for text in TEXTS[:3]]))
    embedding = other.model.get_input_embeddings().weight
    own = next(name for name, parameter in other.model.named_parameters() if parameter is embedding)
    with torch.no_grad():
        with baseline.at(lm, [-2.0]):
            found = lm.model(ids).logits
        for name, change in baseline.tensors.items():
            other.model.get_parameter(own if name == "change" else name).sub_(2 * change)
        torch.testing.assert_close(found, other.model(ids).logits, rtol=1e-4, atol=1e-4)  # float32: other sums
        assert not torch.allclose(found, lm.model(ids).logits, atol=1e-4)


def test_a_trained_full_pass_is_the_pass_of_what_is_saved():
    """Tied weights move together while they are trained."""
    lm = tiny_lm("gpt2")
    trained = FullTrainer(lm)
    drawn = torch.Generator().manual_seed(0)
    for change in trained.trainable():
        change.data.copy_(torch.randn(change.shape, generator=drawn) / 50)
    ids, strengths = torch.tensor(lm.encode([text.text for text in TEXTS[:3]])), [1.0, -0.5, 1.0]
    card = BaselineCard(method="full", **provenance_of(lm))
    with torch.no_grad():
        found = trained.logits(ids, torch.ones_like(ids), torch.tensor(strengths))
        for row, strength in enumerate(strengths):
            with trained.baseline(card).at(lm, [strength]):
                torch.testing.assert_close(found[row], lm.model(ids).logits[row], rtol=1e-4, atol=1e-4)
