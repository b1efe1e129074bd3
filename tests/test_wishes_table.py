"""Which steers of wishes hold up, by the results of their benchmark."""

from __future__ import annotations

import math

import pytest

from benchmarks.tables.wishes import KINDS, MODEL, own_shifts, ratio, shifts, shipped_wishes, unsteered_key, wish_key
from lmsteer.data.wishes import find_wish

UNSTEERED = {
    "means": {"words": 40.0, "questions": 0.0},
    "deviations": {"words": 10.0, "questions": 0.0},
    "log_likelihood": -2.0,
}


def results(positive: float, negative: float, name: str = "brevity", *, ratio: float = 1.0, looping: float = 0) -> dict:
    """Results of a wish whose steer makes the words so many at either end, at a perplexity and a share of loops."""
    price = {"log_likelihood": -2.0 - math.log(ratio), "looping": looping}
    ends = {"positive": positive, "negative": negative}
    own = {end: {"steered": {"means": {"words": words, "questions": 1.0}, **price}} for end, words in ends.items()}
    found = {}
    for kind in KINDS:
        found |= {unsteered_key(MODEL, kind): UNSTEERED, wish_key(MODEL, kind, name): own}
    return found


def test_shifts_are_in_deviations_of_unsteered_texts():
    found = shifts({"means": {"words": 25.0, "questions": 1.0}}, UNSTEERED)
    assert found["words"] == -1.5
    assert math.isnan(found["questions"])
    assert ratio({"log_likelihood": -2.0}, {"log_likelihood": -1.0}) == pytest.approx(math.e)
    moved = own_shifts(results(25, 45), find_wish("brevity"))
    assert moved == {kind: {"positive": -1.5, "negative": 0.5} for kind in KINDS}


@pytest.mark.parametrize(
    ("positive", "negative", "ships"), [(30, 40, True), (40, 50, True), (31, 49, False), (50, 30, False)]
)
def test_a_steer_ships_if_one_end_moves_the_measure_as_it_should(positive, negative, ships):
    assert [wish.name for wish in shipped_wishes(results(positive, negative))] == ["brevity"] * ships


@pytest.mark.parametrize(
    ("price", "ships"),
    [({"ratio": 1.19, "looping": 0.05}, True), ({"ratio": 1.21}, False), ({"looping": 0.06}, False)],
)
def test_a_steer_ships_only_at_a_fair_price(price, ships):
    assert [wish.name for wish in shipped_wishes(results(30, 40, **price))] == ["brevity"] * ships


def test_a_wish_without_a_measure_or_without_results_does_not_ship():
    assert shipped_wishes({**results(10, 90, "humour"), unsteered_key(MODEL, "chat"): UNSTEERED}) == []
