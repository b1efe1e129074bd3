"""Notation: what is written is what is read, and what cannot be read says how to write it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.notation import parse_strengths, strength_of

CARD = Card(name="style", base="base", base_fingerprint="f", tokenizer_fingerprint="t", safe_range=(-8.0, 5.0))
strengths = st.floats(-8, 8, width=32)


def find(name: str) -> Card:
    return replace(CARD, name=name)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z/._=-]{0,7}[a-z]", fullmatch=True),
        st.lists(strengths, min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_strengths_are_read_as_they_are_written(written):
    notations = [f"{name}={','.join(map(str, values))}" for name, values in written.items()]
    cards, settings = parse_strengths(notations, find)
    assert [(name, card.name) for name, card in cards.items()] == [(name, name) for name in written]
    assert {s for setting in settings for s in setting.items()} == {(n, v) for n, vs in written.items() for v in vs}


@given(st.floats(-200, 200, width=32))
def test_percents_are_of_the_safe_range(share):
    end = 5 if share > 0 else 8
    assert strength_of(f"{share}%", CARD) == pytest.approx(share / 100 * end)


def test_auto_is_what_calibration_found_or_the_upper_end():
    assert strength_of("auto", CARD) == 5
    assert strength_of("auto", replace(CARD, calibration={"target_strength": 3.5})) == 3.5
    _, settings = parse_strengths(["s=auto, -50%,1"], find)
    assert settings == [{"s": 5.0}, {"s": -4.0}, {"s": 1.0}]
    for notation in ("auto", "10%"):
        with pytest.raises(SteerError, match="no safe range"):
            strength_of(notation, replace(CARD, safe_range=None))


@pytest.mark.parametrize("bad", ["sentiment", "=1", "s=", "s=x", "s=nan", "s=1,inf", "s=%", "s=nan%", "s=automatic"])
def test_notations_that_cannot_be_read_are_refused_with_an_example(bad):
    with pytest.raises(SteerError, match="write NAME=STRENGTH"):
        parse_strengths([bad], find)
    with pytest.raises(SteerError, match="named twice"):
        parse_strengths(["s=1", "s=2"], find)
