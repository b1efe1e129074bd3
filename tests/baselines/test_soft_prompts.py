"""Soft prompts in training; what they share with all methods is in test_matrix.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.soft_prompts import SoftPromptTrainer
from lmsteer.model.batching import pad
from lmsteer.reading.likelihood import sequence_log_prob
from lmsteer.util.provenance import provenance_of
from tiny import styled, tiny_lm, tiny_model

pytest.importorskip("peft", reason="the extra 'methods' is not installed")


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_soft_prompts_are_trained_as_they_are_read(kind):
    """Between the ends, too: texts of half a label are learnt halfway."""
    lm = tiny_lm("llama")
    trained = SoftPromptTrainer(lm, kind, tokens=3)
    drawn = torch.Generator().manual_seed(0)
    for prompt in trained.trainable():
        prompt.data.copy_(torch.randn(prompt.shape, generator=drawn))
    ids, strengths = lm.encode([text.text for text in styled(10)[:5]]), [1.0, 0.0, -0.5, 0.5, 0.0]
    baseline = trained.baseline(BaselineCard(method=f"{kind}-tuning", **provenance_of(lm)))
    padded, mask = pad(ids, lm.pad_id, lm.device)
    with torch.no_grad():
        logits = trained.logits(padded, mask, torch.tensor(strengths))[:, :-1]
    found = sequence_log_prob(logits, padded[:, 1:], mask[:, 1:])
    # sums of float32, one pass over all and one over what stands after the kept prompt
    torch.testing.assert_close(found, baseline.log_likelihoods(lm, ids, strengths), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_trainer_on_a_cpu_asks_for_no_gpu_and_keeps_the_callers_random_state(llama, monkeypatch, kind):
    asked, fork = [], torch.random.fork_rng

    def noted(devices=None, *args, **options):
        asked.append(devices)
        return fork(devices, *args, **options)

    monkeypatch.setattr(torch.random, "fork_rng", noted)
    before = torch.get_rng_state()
    SoftPromptTrainer(replace(llama, model=tiny_model("llama")), kind, tokens=3)
    assert asked == [[]]
    assert torch.equal(torch.get_rng_state(), before)
