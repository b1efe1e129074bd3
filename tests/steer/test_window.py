"""Windows: what is written is what is read, where a strength acts, and what cannot be a window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.errors import SteerError
from lmsteer.steer.window import ALL, Window


def windows() -> st.SearchStrategy[Window]:
    """Windows of every kind, but for that of all tokens, which has no notation."""
    numbers, lengths = st.integers(0, 10**6), st.integers(1, 10**6)
    ranges = st.builds(
        lambda first, length, shape: Window(first, first + length, shape),
        numbers,
        lengths,
        st.sampled_from(["flat", "rise", "fall"]),
    )
    parts = st.sampled_from([Window(part="answer"), Window(part="thinking")])
    return st.one_of(ranges, st.builds(Window, st.integers(1, 10**6)), parts)


@given(windows())
def test_a_window_is_read_as_it_is_written(window):
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(
    ("notation", "shares"),
    [
        ("2..", [0, 0, 1, 1, 1, 1, 1]),
        ("..2", [1, 1, 0, 0, 0, 0, 0]),
        ("2..4", [0, 0, 1, 1, 0, 0, 0]),
        ("rise..4", [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ("rise2..4", [0, 0, 0, 0.5, 1, 1, 1]),
        ("fall..4", [1, 0.75, 0.5, 0.25, 0, 0, 0]),
        ("fall2..4", [1, 1, 1, 0.5, 0, 0, 0]),
        ("answer", [1] * 7),
    ],
)
def test_the_share_of_each_token(notation, shares):
    window = Window.parse(notation)
    assert [window.share(token) for token in range(7)] == shares
    assert window.earliest == next(token for token, share in enumerate(shares) if share)


def test_all_tokens_are_the_default():
    assert [ALL.share(token) for token in (0, 1, 10**6)] == [1, 1, 1]


@pytest.mark.parametrize(
    "notation", ["", "..", "10", "-5..", "..-1", "1.5..", "ramp40", "rise", "Answer", "0x1..", "1..2..3"]
)
def test_what_is_no_window_is_refused_with_examples(notation):
    with pytest.raises(SteerError, match=r"unknown window .* write @10"):
        Window.parse(notation)


@pytest.mark.parametrize("notation", ["10..10", "10..5", "..0", "0..0", "rise5..5"])
def test_a_window_without_a_token_is_refused(notation):
    with pytest.raises(SteerError, match="holds no token"):
        Window.parse(notation)


def test_windows_that_contradict_themselves_are_refused():
    with pytest.raises(SteerError, match="has no end"):
        Window.parse("rise10..")
    with pytest.raises(SteerError, match="either a part or a range"):
        Window(5, part="answer")
    with pytest.raises(SteerError, match="holds no token"):
        Window(-1)
