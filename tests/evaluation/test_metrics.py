"""Metrics of text against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.evaluation.metrics import distinct, rep_3

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12)


def test_distinct_counts_different_grams_among_all_words():
    assert distinct(["a b a b", "a c"], 1) == pytest.approx(3 / 6)
    assert distinct(["a b a b", "a c"], 2) == pytest.approx(3 / 6)  # ab ba ac
    assert distinct(["a b a b", "a c"], 3) == pytest.approx(2 / 6)  # aba bab
    assert math.isnan(distinct(["", " "], 1))


def test_repetition_is_of_runs_of_three_words():
    assert rep_3("one two three four") == 0
    assert rep_3("Very very very very very") == pytest.approx(2 / 3)
    assert rep_3("a b") == rep_3("") == 0


@given(words, st.integers(1, 3))
def test_what_repeats_is_not_distinct(line, n):
    text = " ".join(line)
    if line:
        assert 0 <= distinct([text], n) <= 1
        assert distinct([text, text], n) == pytest.approx(distinct([text], n) / 2)
    assert 0 <= rep_3(text) < 1
    assert rep_3(f"{text} {text} {text}") >= rep_3(text)
