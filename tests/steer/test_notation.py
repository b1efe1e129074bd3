"""Notation: what is written is what is read, and what cannot be read says how to write it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.notation import of_model_name, outside_safe_range, parse_strengths, strength_of
from lmsteer.steer.strength import Hold, Windowed, strengths_json
from lmsteer.steer.window import ALL, Window
from steer.test_window import windows

CARD = Card(
    name="style",
    base="base",
    base_fingerprint="f",
    tokenizer_fingerprint="t",
    safe_range=(-8.0, 5.0),
    held_out={"slope": 0.25, "offset": 0.1},
)
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


NAMES = st.from_regex(r"[a-z/._@:=-]{0,7}[a-z]", fullmatch=True)


def held() -> st.SearchStrategy[Hold]:
    most = st.none() | st.floats(0, 100, width=32, exclude_min=True)
    return st.builds(Hold, st.floats(0, 1, exclude_min=True, exclude_max=True), most, st.just(ALL) | windows())


@given(st.dictionaries(NAMES, st.builds(Windowed, strengths, windows()), min_size=1, max_size=3))
def test_strengths_within_windows_are_read_as_they_are_written(written):
    _, settings = parse_strengths([f"{name}={strength}" for name, strength in written.items()], find)
    assert settings == [written]
    in_name = "+".join(f"{name}@{strength}" for name, strength in written.items() if "e+" not in str(strength))
    if in_name:
        _, settings = parse_strengths(of_model_name(in_name).split(","), find)
        assert settings == [{name: s for name, s in written.items() if "e+" not in str(s)}]


@given(st.dictionaries(NAMES, held(), min_size=1, max_size=3))
def test_holds_are_read_as_they_are_written(written):
    _, settings = parse_strengths([], find, [f"{name}={hold!s}" for name, hold in written.items()])
    assert settings == [written]


def test_each_strength_of_a_list_has_its_own_window_and_results_say_it():
    _, settings = parse_strengths(["s=-3,50%@..10,auto@rise..40"], find, ["t=0.8@max4@answer"])
    hold = Hold(0.8, 4, Window(part="answer"))
    expected = [-3.0, Windowed(2.5, Window(0, 10)), Windowed(5.0, Window(0, 40, "rise"))]
    assert settings == [{"s": strength, "t": hold} for strength in expected]
    assert [strengths_json(setting) for setting in settings] == [
        {"s": s, "t": "hold 0.8@max4@answer"} for s in (-3.0, "2.5@..10", "5@rise..40")
    ]
    (warning,) = outside_safe_range({"s": CARD}, [{"s": Windowed(9, Window(3))}, {"s": Hold(0.8, 7)}, {"s": Hold(0.8)}])
    assert "+7, +9 lies outside" in warning


@pytest.mark.parametrize(("name", "notation"), [("s@2@10..", "s=2@10.."), ("s@2@3", "s@2=3"), ("s@2@x", "s=2@x")])
def test_a_window_in_a_model_name_is_told_from_a_name_with_the_sign(name, notation):
    assert of_model_name(name) == notation


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("s=1.5", "above 0 and below 1"),
        ("s=0", "above 0 and below 1"),
        ("s=0.5@max0", "a strength above 0"),
        ("s=0.5@max", "cannot read the hold"),
        ("s=0.5@max4@answer@answer", "cannot read the hold"),
        ("s=high", "cannot read the hold"),
        ("s=0.5@soon", "s=0.5@soon: unknown window 'soon'"),
        ("unread=0.5", "has no reader"),
        ("unsafe=0.5", "no safe range that a hold could keep to"),
        ("inverse=0.5", "has no reader"),
        ("still=0.5", "is 0 to 0, so that a hold that keeps to it would do nothing: .* like still=0.5@max4"),
    ],
)
def test_holds_that_cannot_be_are_refused_by_name(notation, message):
    cards = {
        "unread": replace(CARD, name="unread", held_out={}),
        "unsafe": replace(CARD, name="unsafe", safe_range=None),
        "still": replace(CARD, name="still", safe_range=(0.0, 0.0)),
        "inverse": replace(CARD, held_out={"slope": -0.1, "offset": 0.0}),
    }
    with pytest.raises(SteerError, match=message):
        parse_strengths([], lambda name: cards.get(name, CARD), [notation])


def test_a_steer_is_held_once_and_has_no_strength_beside():
    for notations, holds in ((["s=1"], ["s=0.8"]), ([], ["s=0.8", "s=0.7"])):
        with pytest.raises(SteerError, match="held"):
            parse_strengths(notations, find, holds)
    with pytest.raises(SteerError, match="s=3@soon: unknown window"):
        parse_strengths(["s=3@soon"], find)


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
