"""Likelihoods at many strengths are what the steered model says at each."""

from __future__ import annotations

import math

import pytest
import torch

from lmsteer.analysis.likelihood import likelihoods
from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.steers.mix import Mix
from tiny import FAMILIES, random_steer

TEXTS = ["The cat", "A much longer text, to be padded", "", "x", "The cat sat"]
STRENGTHS = (-2.0, 0.0, 1.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_what_the_steered_model_says(make_lm, family):
    lm = make_lm(family)
    steer = random_steer(lm)
    for text, found in zip(TEXTS, likelihoods(lm, TEXTS, steer, STRENGTHS), strict=True):
        (expected_ids,) = lm.encode([text])
        assert found.ids == expected_ids
        assert found.log_p.shape == (3, max(len(found.ids) - 1, 0))
        if len(found.ids) < 2:
            continue
        ids = torch.tensor([found.ids])
        for strength, line in zip(STRENGTHS, found.log_p, strict=True):
            with lm.steered(Mix({"style": steer}, {"style": strength})), torch.no_grad():
                log_p = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)
            expected = log_p[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
            # float32: h W E is summed in another order than (h + h W) E, and the text was padded.
            torch.testing.assert_close(line, expected, rtol=1e-3, atol=1e-3)


def test_totals_and_evidence_add_up(llama):
    (found,) = likelihoods(llama, ["The cat sat"], random_steer(llama), STRENGTHS)
    assert float(found.evidence().sum()) == pytest.approx(float(found.total[-1] - found.total[0]), abs=1e-4)
    assert torch.equal(found.evidence(1, 1), torch.zeros(len(found.ids) - 1))


def test_what_cannot_be_read_is_refused(llama, make_lm):
    steer = random_steer(llama)
    with pytest.raises(DataError, match="no strengths"):
        likelihoods(llama, TEXTS, steer, [])
    with pytest.raises(SteerError, match="finite"):
        likelihoods(llama, TEXTS, steer, [math.nan])
    with pytest.raises(DataError, match="text 2 has"):
        likelihoods(llama, ["a", "b" * (llama.max_length + 1)], steer, [1.0])
    with pytest.raises(WrongBaseError):
        likelihoods(make_lm("qwen2"), TEXTS, steer, [1.0])
    assert likelihoods(llama, [], steer, [1.0]) == []
