"""Sweeps: every strength from two products is what the model says at that strength."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import Direction, directions_of, sweep, sweep_texts
from lmsteer.steer.mix import Mix
from tiny import random_steer, styled


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "gptj"])
def test_one_pass_serves_every_strength(make_lm, family, form):
    lm = make_lm(family)
    texts = styled(6)
    rows = LabelledRows.join(list(gather_rows(lm, texts, encode_labelled(lm, texts))))
    steer, domain = random_steer(lm, form), random_steer(lm, seed=5, name="domain")
    strengths = [-1.5, 0.0, rows.label]
    found = sweep(lm.head, rows.h, rows.target, [Direction.of_steer(lm.head, steer)], strengths, domain)[0]
    for strength, values in zip(strengths, found, strict=True):
        s = strength.tolist() if isinstance(strength, torch.Tensor) else strength
        mix = Mix({"style": steer, "domain": domain}, {"style": s, "domain": 1.0})
        z = lm.head.post(mix.steer_logits(lm.head.raw(mix.steer_hidden_states(rows.h)).float()))
        expected = z.log_softmax(-1).gather(1, rows.target[:, None]).squeeze(1)
        # float32: h W E is summed in another order than (h + h W) E.
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)


def test_a_direction_too_large_for_a_piece_goes_through_the_head(llama, monkeypatch):
    steer = random_steer(llama, rank=5)
    h, y = torch.randn(7, 32, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    kept = Direction.of_steer(llama.head, steer)
    monkeypatch.setattr("lmsteer.model.head.PIECE_NUMBERS", 600)
    direct = Direction.of_steer(llama.head, steer)
    assert kept.eb is not None
    assert direct.eb is None
    one, other = (sweep(llama.head, h, y, [direction], [2.0]) for direction in (kept, direct))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # float32, another order of products


def test_several_directions_are_each_taken_alone(llama):
    h, y = torch.randn(9, 32, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    two = [Direction.of_steer(llama.head, random_steer(llama, form)) for form in ("multiply", "offset")]
    together = sweep(llama.head, h, y, two, [-1.0, 3.0])
    assert together.shape == (2, 2, 9)
    for direction, found in zip(two, together, strict=True):
        assert torch.equal(sweep(llama.head, h, y, [direction], [-1.0, 3.0])[0], found)


def test_no_rows_give_no_figures(llama):
    steer = Direction.of_steer(llama.head, random_steer(llama))
    assert sweep(llama.head, torch.zeros(0, 32), torch.zeros(0, dtype=torch.int64), [steer], [1.0]).shape == (1, 1, 0)


def test_pieces_are_put_together_in_their_order(llama, monkeypatch):
    h, y = torch.randn(11, 32, generator=torch.Generator().manual_seed(0)), torch.arange(11)
    directions = [Direction.of_steer(llama.head, random_steer(llama, form)) for form in ("multiply", "offset")]
    strengths = [0.5, torch.linspace(-1, 1, 11)]
    whole = sweep(llama.head, h, y, directions, strengths)
    monkeypatch.setattr("lmsteer.model.head.PIECE_NUMBERS", 4 * llama.head.weight.shape[0])
    # float32: products of four rows are summed in another order.
    torch.testing.assert_close(sweep(llama.head, h, y, directions, strengths), whole, rtol=1e-5, atol=1e-5)


def test_the_eos_component_of_a_steer_acts_where_texts_end(llama):
    texts = styled(6)
    rows = LabelledRows.join(list(gather_rows(llama, texts, encode_labelled(llama, texts))))
    plain = random_steer(llama)
    ended = replace(plain, factors={**plain.factors, "A_eos": torch.ones(32, 1) / 8, "B_eos": torch.ones(32, 1) / 4})
    directions, strengths = directions_of(llama.head, [ended, plain]), [1.0, rows.label]
    assert directions[0][1] is directions[1][1]  # what has no eos component is the same everywhere
    found = sweep_texts(llama.head, rows.h, rows.target, rows.is_end, directions, strengths)
    assert rows.is_end.sum() == 6
    assert torch.equal(found[0, :, ~rows.is_end], found[1, :, ~rows.is_end])
    for steer, lines in ((ended.with_eos(), found[0]), (plain, found[1])):
        expected = sweep(llama.head, rows.h, rows.target, [Direction.of_steer(llama.head, steer)], strengths)[0]
        # float32: other rows are in the product
        torch.testing.assert_close(lines[:, rows.is_end], expected[:, rows.is_end], rtol=1e-5, atol=1e-5)
    assert (found[0] != found[1])[:, rows.is_end].all()
