"""The dial: what a strength does to generated text, as a curve of attribute against perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmsteer.evaluation.scorers.base import UNDECIDED, Scorer, positive_share
from lmsteer.generation.generate import Continuation, perplexity


@dataclass(frozen=True)
class Point:
    """One strength of a dial.

    Attributes:
        strength: of the steer.
        positive_share: share of positive ones among the scorer's verdicts.
        verdicts: how many continuations it gave a verdict on.
        continuations: how many there were.
        perplexity: of the continuations under the unsteered model.
        tokens: mean length of a continuation.
    """

    strength: float
    positive_share: float
    verdicts: int
    continuations: int
    perplexity: float
    tokens: float


def strength_curve(continuations: Sequence[Continuation], name: str, scorer: Scorer) -> list[Point]:
    """The curve of one steer, from scored continuations at several strengths of it."""
    by_strength: dict[float, list[Continuation]] = {}
    for c in continuations:
        by_strength.setdefault(c.strengths[name], []).append(c)
    return [_point(strength, group, scorer) for strength, group in sorted(by_strength.items())]


def _point(strength: float, group: Sequence[Continuation], scorer: Scorer) -> Point:
    scores = scorer.scores([c.text for c in group])
    given = len(group) - scores.count(UNDECIDED)
    mean_tokens = sum(c.tokens for c in group) / len(group)
    return Point(strength, positive_share(scores), given, len(group), perplexity(group), mean_tokens)
