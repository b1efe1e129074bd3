"""Strengths of rows: broadcast, and kept in order."""

from __future__ import annotations

import pytest
import torch

from lmsteer.baselines.row_strengths import broadcast_strengths, by_strength, in_order
from lmsteer.errors import SteerError


def test_strengths_are_spread_over_rows_and_their_blocks():
    strengths = torch.tensor([1.0, -2.0])
    assert broadcast_strengths(strengths, torch.zeros(2, 3, 4)).shape == (2, 1, 1)
    assert broadcast_strengths(strengths, torch.zeros(4, 3)).flatten().tolist() == [1.0, 1.0, -2.0, -2.0]
    assert broadcast_strengths(strengths[:1], torch.zeros(5, 3)).shape == (1, 1)
    with pytest.raises(SteerError, match="given for 2 rows, but the batch has 3"):
        broadcast_strengths(strengths, torch.zeros(3, 1))


def test_lots_come_back_in_the_order_of_the_batch():
    batch = torch.arange(12).reshape(6, 2)
    places = [torch.tensor([4, 1]), torch.tensor([0, 5, 2]), torch.tensor([3])]
    assert torch.equal(in_order([batch[rows] for rows in places], places), batch)


def test_rows_of_one_strength_are_run_together_and_put_back():
    batch, strengths, runs = torch.arange(12.0).view(6, 2), torch.tensor([1.0, -0.5, 1.0, 0.0, -0.5, 1.0]), []

    def run(strength, rows):
        runs.append((strength, rows.tolist()))
        return strength * batch[rows]

    assert torch.equal(by_strength(strengths, run), strengths[:, None] * batch)
    assert sorted(runs) == [(-0.5, [1, 4]), (0.0, [3]), (1.0, [0, 2, 5])]
