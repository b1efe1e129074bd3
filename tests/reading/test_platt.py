"""Calibration: probabilities that hold, and the area under the curve."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.reading.platt import auc, fit_platt
from lmsteer.steer.platt import PlattScaling


def test_the_law_that_labels_follow_is_found():
    random = torch.Generator().manual_seed(0)
    evidence = 4 * torch.randn(20_000, generator=random)
    positive = torch.rand(20_000, generator=random) < torch.sigmoid(0.6 * evidence - 0.5)
    found = fit_platt(evidence, positive)
    # One standard error of either is about .02 with 20,000 texts.
    assert found.slope == pytest.approx(0.6, abs=0.06)
    assert found.offset == pytest.approx(-0.5, abs=0.06)


@given(st.floats(1e-6, 1e6), st.integers(2, 50))
def test_the_likelihood_is_at_its_peak_whatever_the_unit_and_a_clear_cut_has_a_bound(unit, texts):
    evidence = unit * torch.linspace(-1, 1, texts, dtype=torch.float64)
    positive = evidence > 0
    found = fit_platt(evidence, positive)
    ones = int(positive.sum())
    target = torch.where(positive, (ones + 1) / (ones + 2), 1 / (texts - ones + 2)).double()
    p = torch.tensor([found.probability(float(e)) for e in evidence], dtype=torch.float64)
    assert math.isfinite(found.slope)
    assert found.slope > 0
    assert float((target - p).sum()) == pytest.approx(0, abs=1e-5)
    assert float(((target - p) * evidence / unit).sum()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("outlier", [3e3, 3e4, -3e4])
def test_the_peak_is_found_whatever_a_single_text_weighs(outlier):
    g = torch.Generator().manual_seed(0)
    evidence = torch.randn(500, generator=g, dtype=torch.float64) * 2
    positive = torch.rand(500, generator=g, dtype=torch.float64) < torch.sigmoid(1.5 * evidence)
    evidence = torch.cat([evidence, torch.tensor([outlier])])
    positive = torch.cat([positive, torch.tensor([outlier > 0])])
    found = fit_platt(evidence, positive)
    z = found.slope * evidence + found.offset
    ones = int(positive.sum())
    target = torch.where(positive, (ones + 1) / (ones + 2), 1 / (501 - ones + 2)).double()
    left = target - torch.sigmoid(z)
    # the peak: both slopes of the likelihood are 0
    assert float(left.sum()) == pytest.approx(0, abs=1e-3)
    assert float((left * evidence).sum() / evidence.abs().sum()) == pytest.approx(0, abs=1e-5)


def test_one_kind_of_texts_has_no_calibration():
    found = fit_platt(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert math.isnan(found.slope)
    assert PlattScaling.from_held_out({"slope": None, "offset": None}) is None
    assert PlattScaling.from_held_out({}) is None
    assert PlattScaling.from_held_out({"slope": 2.0, "offset": 0.0}) == PlattScaling(2.0, 0.0)


@given(st.floats(-1e4, 1e4))
def test_probabilities_are_those_of_two_sides(evidence):
    one, other = PlattScaling(0.7, 0.2), PlattScaling(-0.7, -0.2)
    assert 0 <= one.probability(evidence) <= 1
    assert one.probability(evidence) + other.probability(evidence) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_the_area_counts_pairs(texts):
    ones = [e for e, positive in texts if positive]
    zeros = [e for e, positive in texts if not positive]
    table = torch.tensor([(float(e), float(p)) for e, p in texts]).reshape(-1, 2)
    found = auc(table[:, 0], table[:, 1] > 0)
    if not ones or not zeros:
        assert math.isnan(found)
        return
    pairs = sum((one > zero) + (one == zero) / 2 for one in ones for zero in zeros)
    assert found == pytest.approx(pairs / len(ones) / len(zeros))
