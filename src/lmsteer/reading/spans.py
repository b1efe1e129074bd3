"""Evidence: which words of a text speak for either end of a dimension.

A token's evidence is its log-likelihood at one strength less that at another (LM-Steer, Han et al., ACL 2024, section
5.3); a word's is the sum of its tokens'. **Evidence spans** are the best few runs of words: those that no two share a
word, and that make the most of ::

    Σ_spans ( |Σ_words e_w| - c · words )

where ``c`` is the price of a word, the mean of ``|e_w|`` in the text if none is given: a span takes in what speaks
louder than the rest. They are found exactly, in one walk along the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Span:
    """A run of words.

    Attributes:
        start: the first word, counted from 0.
        end: one past the last.
        score: evidence of its words, summed; positive ones speak for the upper end.
    """

    start: int
    end: int
    score: float


class _Trail(NamedTuple):
    """How a value was come by: the spans before, and the last one's bounds; ``end`` is None while it goes on."""

    before: _Trail | None
    start: int
    end: int | None = None


class _Best(NamedTuple):
    value: float
    trail: _Trail | None = None


def best_spans(evidence: Sequence[float], count: int = 3, price: float | None = None) -> list[Span]:
    """The best spans, at most ``count``, in the order of the text.

    For each number of spans, the walk keeps the best choice among the words so far: with all spans ended, and
    with the last one going on, upwards or downwards. Time and memory go with words times ``count``.

    Args:
        evidence: of each word, finite.
        count: of spans, at most.
        price: of a word, in the unit of evidence.
    """
    if price is None:
        price = sum(map(abs, evidence)) / max(len(evidence), 1)
    count = min(count, len(evidence))
    ended = [_Best(0.0)] * (count + 1)
    going = {sign: [_Best(float("-inf"))] * (count + 1) for sign in (1, -1)}
    for word, score in enumerate(evidence):
        for number in range(count, 0, -1):  # from above: a span starts after what had ended before this word
            start = ended[number - 1]
            for sign, best in going.items():
                longer = max(best[number], _Best(start.value, _Trail(start.trail, word)), key=_value)
                best[number] = longer._replace(value=longer.value + sign * score - price)
                ended[number] = max(ended[number], _end(best[number], word + 1), key=_value)
    bounds = [*_bounds(max(ended, key=_value).trail)]
    return [Span(start, end, sum(evidence[start:end])) for start, end in reversed(bounds)]


def _value(best: _Best) -> float:
    return best.value


def _end(best: _Best, end: int) -> _Best:
    return best if best.trail is None else best._replace(trail=best.trail._replace(end=end))


def _bounds(trail: _Trail | None) -> Iterator[tuple[int, int]]:
    while trail is not None:
        assert trail.end is not None
        yield trail.start, trail.end
        trail = trail.before
