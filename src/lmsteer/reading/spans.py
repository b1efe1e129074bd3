"""Evidence spans: the runs of words of a text with the strongest evidence for either end of a dimension.

The evidence of a token is a log-likelihood ratio: its log-likelihood at one strength minus that at another (LM-Steer,
Han et al., ACL 2024, section 5.3). The evidence of a word is the sum over its tokens. **Evidence spans** are the few
runs of words, no two of which overlap, that maximise ::

    Σ_spans ( |Σ_words e_w| - c · words )

where ``c`` is the price of a word, by default the mean of ``|e_w|`` in the text: a span consists of words with more
evidence than the rest. They are found exactly, by dynamic programming along the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Span:
    """A run of words.

    Attributes:
        start: index of the first word.
        end: one past the last word.
        score: sum of the evidence of its words; positive evidence is for the upper end of the dimension.
    """

    start: int
    end: int
    score: float


class _Trail(NamedTuple):
    """The choice behind a value: the spans before, and the bounds of the last one; ``end`` is None while it is open."""

    before: _Trail | None
    start: int
    end: int | None = None


class _Best(NamedTuple):
    value: float
    trail: _Trail | None = None


def best_spans(evidence: Sequence[float], count: int = 3, price: float | None = None) -> list[Span]:
    """The best spans, at most ``count``, in the order of the text.

    For each number of spans, the algorithm keeps the best choice among the words so far: with all spans closed, and
    with the last one open, of positive or of negative evidence. Time and memory are proportional to words · ``count``.

    Args:
        evidence: the evidence of each word; finite numbers.
        count: the largest number of spans.
        price: the price of a word, in the unit of evidence; None for the mean absolute evidence.
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
