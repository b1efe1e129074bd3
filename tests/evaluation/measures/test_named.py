"""Measures of style: which of two texts has more of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.wishes import wishes
from lmsteer.evaluation.measures import MEASURES

PLAIN = "The train left the town at nine. It was late."
# A text with more than PLAIN.
MORE = {
    "words": f"{PLAIN} {PLAIN}",
    "words-a-sentence": "The train left the town at nine and it was late.",
    "reading-grade": "The locomotive departed from the metropolitan terminal approximately fifteen minutes afterwards.",
    "formality": "Therefore, the departure of the train required a revision of the arrangement.",
    "certainty": "The train will certainly leave at nine, without a doubt.",
    "affect": "The lovely train happily left the beautiful town. It was great!",
    "first-person": "My train left our town at nine. I'm late.",
    "questions": "Did the train leave the town at nine? It was late.",
    "line-breaks": "The train left\n\nthe town at nine.\nIt was late.",
    "cliches": "The train left the bustling town at nine. It was a dream come true.",
}
# A text with less than PLAIN.
LESS = {
    "words": "It was late.",
    "words-a-sentence": "It left. It was late.",
    "reading-grade": "It left. It was late.",
    "formality": "Hey, you guys! I'd say it's late.",
    "certainty": "Maybe the train left the town at nine, I think. It might have been late.",
    "affect": "The awful train left the ugly town. It was a terrible failure.",
    "english": "Der Zug verließ die Stadt um neun. Er war spät.",
}


def test_every_measure_has_an_example():
    assert MORE.keys() | LESS.keys() == MEASURES.keys()


@pytest.mark.parametrize("name", MORE)
def test_more_is_more(name):
    assert MEASURES[name].of(MORE[name]) > MEASURES[name].of(PLAIN)


@pytest.mark.parametrize("name", LESS)
def test_less_is_less(name):
    assert MEASURES[name].of(LESS[name]) < MEASURES[name].of(PLAIN)


def test_values_can_be_counted_by_hand():
    values = {name: MEASURES[name].of("I don't know. Do we go?\nYes") for name in MEASURES}
    assert values["words"] == 7
    assert values["words-a-sentence"] == pytest.approx(7 / 3)
    assert values["questions"] == pytest.approx(100 / 3)
    assert values["first-person"] == pytest.approx(200 / 7)
    assert values["line-breaks"] == pytest.approx(100 / 7)
    assert values["formality"] == pytest.approx(-300 / 7)
    assert values["reading-grade"] == pytest.approx(0.39 * 7 / 3 + 11.8 - 15.59)


@settings(max_examples=50, derandomize=True)
@given(st.text(max_size=80))
def test_every_text_has_a_number(text):
    assert all(math.isfinite(measure.of(text)) for measure in MEASURES.values())


@pytest.mark.parametrize("text", ["", " \n", "...", "?!"])
def test_a_text_without_words_has_nothing(text):
    assert {measure.of(text) for name, measure in MEASURES.items() if name != "formality"} <= {0.0}


def test_the_scorers_of_wishes_that_ship_exist():
    assert {wish.scorer for wish in wishes() if wish.scorer} <= MEASURES.keys()
