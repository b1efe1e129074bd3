"""Readings, verdicts and dials."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lmsteer.evaluation.dial import dial
from lmsteer.evaluation.reading import log_likelihoods, read
from lmsteer.evaluation.scorers import Vader, positive_share
from lmsteer.fitting.rows import Rows, encode_whole, gather
from lmsteer.generation import Continuation
from lmsteer.steers.mix import Mix
from tiny import random_steer, styled


@pytest.fixture(scope="module")
def rows(llama) -> Rows:
    texts = styled(20)
    return Rows.join(list(gather(llama, texts, encode_whole(llama, texts))))


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "gptj"])
def test_one_pass_serves_every_strength(make_lm, family, form):
    lm = make_lm(family)
    texts = styled(6)
    rows = Rows.join(list(gather(lm, texts, encode_whole(lm, texts))))
    steer, domain = random_steer(lm, form), random_steer(lm, seed=5, name="domain")
    found = log_likelihoods(lm.head, rows, steer, [-1.5, 0.0, rows.label], domain)
    for strength, values in zip((-1.5, 0.0, rows.label), found, strict=True):
        s = strength.tolist() if isinstance(strength, torch.Tensor) else strength
        mix = Mix({"style": steer, "domain": domain}, {"style": s, "domain": 1.0})
        z = lm.head.post(mix.steer_logits(lm.head.raw(mix.steer_hidden_states(rows.h)).float()))
        expected = z.log_softmax(-1).gather(1, rows.target[:, None]).squeeze(1)
        # float32: h W E is summed in another order than (h + h W) E.
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)


def test_a_reading_adds_up(llama, rows):
    reading = read(llama.head, rows, random_steer(llama))
    positive = (rows.label > 0).float().mean().item()
    assert reading.texts == 20
    both = positive * reading.gain_positive + (1 - positive) * reading.gain_negative
    assert reading.gain == pytest.approx(both, abs=1e-5)
    mirrored = read(llama.head, replace(rows, label=-rows.label), random_steer(llama))
    assert mirrored.signs == pytest.approx(1 - reading.signs)
    assert reading.to_json()["texts"] == 20


def test_vader_judges_and_abstains():
    assert Vader().verdicts(["This is wonderful!", "A horrible, sad mess.", "The table has four legs."]) == [1, -1, 0]


def test_positive_share_is_among_verdicts_only():
    assert positive_share([1, 1, -1, 0, 0]) == pytest.approx(2 / 3)
    assert math.isnan(positive_share([0]))


def test_a_dial_groups_by_strength():
    def row(strength: float, text: str, log_p: float) -> Continuation:
        return Continuation("p", text, {"s": strength}, 0, 2, log_p)

    rows = [row(1, "great", -2.0), row(-1, "terrible", -4.0), row(1, "awful", -4.0)]
    low, high = dial(rows, "s", Vader())
    assert (low.strength, low.positive_share, low.verdicts) == (-1, 0.0, 1)
    assert (high.positive_share, high.continuations) == (0.5, 2)
    assert high.perplexity == pytest.approx(math.exp(6 / 4))
