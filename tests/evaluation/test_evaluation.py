"""Readings, verdicts and dials."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lmsteer.evaluation.scorers import Vader, positive_share
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.generation.generate import Continuation
from lmsteer.reading.encode import encode_labelled
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from tiny import random_steer, styled


@pytest.fixture(scope="module")
def rows(llama) -> LabelledRows:
    texts = styled(20)
    return LabelledRows.join(list(gather_rows(llama, texts, encode_labelled(llama, texts))))


def test_a_reading_adds_up(llama, rows):
    reading = measure_held_out(llama, rows, random_steer(llama))
    positive = (rows.label > 0).float().mean().item()
    assert reading.texts == 20
    both = positive * reading.log_likelihood_gain_positive + (1 - positive) * reading.log_likelihood_gain_negative
    assert reading.log_likelihood_gain == pytest.approx(both, abs=1e-5)
    mirrored = measure_held_out(llama, replace(rows, label=-rows.label), random_steer(llama))
    assert mirrored.sign_accuracy == pytest.approx(1 - reading.sign_accuracy)
    assert reading.to_json()["texts"] == 20


def test_figures_are_rounded_to_what_they_tell_however_small(llama, rows):
    reading = replace(
        measure_held_out(llama, rows, random_steer(llama)),
        slope=1.23456e-6,
        log_likelihood_gain=0.123456,
        offset=math.nan,
    )
    told = reading.to_json()
    assert (told["slope"], told["log_likelihood_gain"], told["offset"]) == (1.235e-6, 0.1235, None)
    assert replace(reading, slope=math.nan).to_json()["slope"] is None


def test_the_end_part_is_not_inside_and_a_domain_is_no_gain(llama, rows):
    nothing = {name: torch.zeros(32, 1) for name in ("A", "B")}
    end = replace(random_steer(llama), factors={**nothing, "A_eos": torch.ones(32, 1), "B_eos": torch.ones(32, 1)})
    reading = measure_held_out(llama, rows, end)
    assert reading.log_likelihood_gain != 0
    assert reading.log_likelihood_gain_without_eos == pytest.approx(0, abs=1e-6)  # float32, twice through the head
    assert reading.sign_accuracy_without_eos == 0  # no evidence either way
    idle = replace(random_steer(llama), factors=nothing)
    assert measure_held_out(llama, rows, idle, domain=random_steer(llama, seed=3)).log_likelihood_gain == pytest.approx(
        0, abs=1e-6
    )


def test_vader_judges_and_abstains():
    texts = ["This is wonderful!", "A horrible, sad mess.", "The table has four legs."]
    assert Vader().scores(texts) == [1, 0, 0.5]


def test_positive_share_is_among_verdicts_only():
    assert positive_share([0.9, 1, 0, 0.5, 0.5]) == pytest.approx(2 / 3)
    assert math.isnan(positive_share([0.5]))


def test_a_dial_groups_by_strength():
    def row(strength: float, text: str, log_p: float) -> Continuation:
        return Continuation("p", text, {"s": strength}, 0, 2, log_p)

    rows = [row(1, "great", -2.0), row(-1, "terrible", -4.0), row(1, "awful", -4.0)]
    low, high = strength_curve(rows, "s", Vader())
    assert (low.strength, low.positive_share, low.verdicts) == (-1, 0.0, 1)
    assert (high.positive_share, high.continuations) == (0.5, 2)
    assert high.perplexity == pytest.approx(math.exp(6 / 4))
