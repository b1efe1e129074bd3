"""Evidence of tokens from the decoder's numbers: that of ``analyse``, and the gain of a unit of strength."""

from __future__ import annotations

import pytest
import torch

from lmsteer.generation.evidence import token_evidence, vocabulary_evidence
from lmsteer.reading.analyse import analyse
from lmsteer.reading.encode import start_tokens
from lmsteer.steer.mix import Mix
from tiny import random_steer


def parts_of(lm, steer, ids):
    """z₀ and z₁ of the tokens after the first of a text."""
    with torch.inference_mode():
        h = lm.before_head(input_ids=torch.tensor([ids]))[0][:-1]
        return lm.head.raw(h), Mix({"s": steer}, {"s": 1.0}).logit_shift(h, lm.head.weight)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_the_evidence_of_a_token_is_that_of_analyse(make_lm, family, form):
    lm = make_lm(family)
    steer, text = random_steer(lm, form), "It was long"
    ids = [*start_tokens(lm), *lm.encode([text])[0]]
    found = token_evidence(lm.head, *parts_of(lm, steer, ids), torch.tensor(ids[1:]))
    expected = analyse(lm, [text], {"s": steer})[0].dimensions["s"].evidence[: len(found)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.abs().max() > 0.1


def test_a_unit_of_strength_moves_the_mean_evidence_by_the_gain(make_lm):
    lm = make_lm("gemma2")
    z0, z1 = parts_of(lm, random_steer(lm), lm.encode(["It was long"])[0])
    evidence, gain = vocabulary_evidence(lm.head, z0, z1)
    means = [(torch.softmax(lm.head.post(z0 + s * z1), -1) * evidence).sum(-1) for s in (1.0, -1.0)]
    torch.testing.assert_close(gain, (means[0] - means[1]) / 2)
    assert (gain > 0).all()
    tokens = torch.arange(len(z0))
    torch.testing.assert_close(evidence[tokens, tokens], token_evidence(lm.head, z0, z1, tokens))
