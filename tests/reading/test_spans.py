"""Evidence spans are the best there are, wherever the words with evidence are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.reading.spans import Span, best_spans

# Eighths are exact in binary, so that sums can be compared in any order.
scores = st.lists(st.integers(-24, 24).map(lambda n: n / 8), max_size=8)


def worth(evidence, spans, price):
    return sum(abs(sum(evidence[start:end])) - price * (end - start) for start, end in spans)


def all_choices(words, count):
    """Every choice of at most ``count`` disjoint spans."""
    for number in range(count + 1):
        for bounds in combinations(range(2 * words + 2), 2 * number):
            # Two bounds of neighbouring spans may stand at one place: each place is listed twice.
            spans = [(bounds[2 * k] // 2, bounds[2 * k + 1] // 2) for k in range(number)]
            if all(start < end for start, end in spans):
                yield spans


@given(scores, st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.5]))
def test_no_other_spans_are_worth_more(evidence, count, price):
    found = best_spans(evidence, count, price)
    bounds = [(span.start, span.end) for span in found]
    assert len(found) <= count
    assert all(0 <= start < end <= len(evidence) for start, end in bounds)
    assert all(one[1] <= other[0] for one, other in pairwise(bounds))
    assert worth(evidence, bounds, price) == max(worth(evidence, s, price) for s in all_choices(len(evidence), count))
    assert [span.score for span in found] == [sum(evidence[start:end]) for start, end in bounds]


@given(scores, st.integers(1, 3))
def test_the_other_end_has_the_same_spans(evidence, count):
    mirrored = best_spans([-e for e in evidence], count)
    value = worth(evidence, [(s.start, s.end) for s in mirrored], sum(map(abs, evidence)) / max(len(evidence), 1))
    ours = [(s.start, s.end) for s in best_spans(evidence, count)]
    assert value == pytest.approx(worth(evidence, ours, sum(map(abs, evidence)) / max(len(evidence), 1)), abs=1e-9)


def test_words_that_speak_are_found_at_both_ends():
    evidence = [0.1, -0.1, 3.0, 2.5, 0.0, 0.1, -0.1, -4.0, 0.1, 0.0]
    assert best_spans(evidence, 2) == [Span(2, 4, 5.5), Span(7, 8, -4.0)]
    # At the mean price of 1.0, two words of 5.5 are worth 3.5, and one of 4 is worth 3.
    assert best_spans(evidence, 1) == [Span(2, 4, 5.5)]


def test_a_text_that_says_nothing_has_no_spans():
    assert best_spans([]) == []
    assert best_spans([0.0, 0.0]) == []
    assert best_spans([1.0, 1.0], 0) == []


def test_a_long_text_is_walked_in_one_go():
    evidence = [(-1.0) ** word for word in range(20_000)]
    evidence[15_000:15_003] = [2.0, 3.0, 2.0]
    assert best_spans(evidence, 1, 1.5) == [Span(15_000, 15_003, 7.0)]
