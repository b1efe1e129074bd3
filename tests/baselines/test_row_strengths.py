"""Strengths of rows: broadcast, kept in order, and refused where a model runs rows in another place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.baselines.row_strengths import broadcast_strengths, by_strength, check_rows, in_order
from lmsteer.errors import ModelError, SteerError
from tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_models_run_rows_first(make_lm, family):
    check_rows(make_lm(family))


def test_a_model_that_runs_tokens_first_is_refused(llama):
    other = replace(llama, model=tiny_model("llama"))
    layer = other.model.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda _, args: (args[0].transpose(0, 1),))
    with pytest.raises(ModelError, match=r"gives its layers \(5, 3, 32\) for 3 rows of 5 tokens"):
        check_rows(other)


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
