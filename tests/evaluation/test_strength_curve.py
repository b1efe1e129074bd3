"""Strength curves: continuations are grouped by strength and scored."""

from __future__ import annotations

import math

import pytest

from lmsteer.evaluation.scorers import Vader, positive_share
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.generation.generate import Continuation


def test_vader_scores_or_is_undecided():
    texts = ["This is wonderful!", "A horrible, sad mess.", "The table has four legs."]
    assert Vader().scores(texts) == [1, 0, 0.5]


def test_the_positive_share_counts_verdicts_alone():
    assert positive_share([0.9, 1, 0, 0.5, 0.5]) == pytest.approx(2 / 3)
    assert math.isnan(positive_share([0.5]))


def test_a_curve_has_a_point_for_each_strength():
    def row(strength: float, text: str, log_p: float) -> Continuation:
        return Continuation("p", text, {"s": strength}, 0, 2, log_p)

    rows = [row(1, "great", -2.0), row(-1, "terrible", -4.0), row(1, "awful", -4.0)]
    low, high = strength_curve(rows, "s", Vader())
    assert (low.strength, low.positive_share, low.verdicts) == (-1, 0.0, 1)
    assert (high.positive_share, high.continuations) == (0.5, 2)
    assert high.perplexity == pytest.approx(math.exp(6 / 4))
