"""Positions: where the likelihood of a text peaks, and what that makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.reading.position import position
from lmsteer.steer.platt import PlattScaling


@given(st.floats(-2.4, 2.4), st.floats(0.1, 50), st.integers(13, 61))
def test_the_peak_of_a_parabola_is_found_between_the_strengths(peak, bend, count):
    strengths = torch.linspace(-3, 3, count, dtype=torch.float64)
    log_p = -bend * (strengths - peak) ** 2 - 100
    assert position(log_p, strengths.tolist(), 0.0, None).best == pytest.approx(peak, abs=1e-6)


def test_at_an_end_of_the_line_the_end_is_told():
    assert position(torch.tensor([3.0, 2.0, 1.0]), [-1.0, 0.0, 1.0], 0.0, None).best == -1.0
    assert position(torch.tensor([1.0, 2.0, 3.0]), [-1.0, 0.0, 1.0], 0.0, None).best == 1.0
    assert position(torch.tensor([2.0, 2.0, 2.0]), [-1.0, 0.0, 1.0], 0.0, None).best == -1.0


def test_shares_are_those_of_a_prior_that_prefers_nothing():
    found = position(torch.tensor([-700.0, -701.0]), [-1.0, 1.0], -1.0, PlattScaling(0.5, 0.25))
    assert found.shares == pytest.approx((1 / (1 + math.exp(-1)), 1 / (1 + math.e)))
    assert found.probability == pytest.approx(1 / (1 + math.exp(0.25)))
    assert found.log_p == (-700.0, -701.0)
    assert position(torch.zeros(2), [-1.0, 1.0], 0.0, None).probability is None
