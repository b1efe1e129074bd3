"""The strength curve of a steer: positive share and perplexity of generated text at each strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmsteer.evaluation.scorers.base import UNDECIDED, Scorer, positive_share
from lmsteer.generation.generate import Continuation, perplexity
from lmsteer.steer.strength import size_of


@dataclass(frozen=True)
class Point:
    """One strength of a curve.

    Attributes:
        strength: the strength of the steer.
        positive_share: share of positive continuations among those that the scorer is not undecided on.
        verdicts: number of continuations that the scorer is not undecided on.
        continuations: number of continuations.
        perplexity: perplexity of the continuations under the unsteered model.
        tokens: mean number of tokens of a continuation.
    """

    strength: float
    positive_share: float
    verdicts: int
    continuations: int
    perplexity: float
    tokens: float


def strength_curve(continuations: Sequence[Continuation], name: str, scorer: Scorer) -> list[Point]:
    """The curve of the steer ``name``, from continuations at several strengths with their log-likelihoods."""
    by_strength: dict[float, list[Continuation]] = {}
    for c in continuations:
        by_strength.setdefault(size_of(c.strengths[name]), []).append(c)
    return [_point(strength, group, scorer) for strength, group in sorted(by_strength.items())]


def _point(strength: float, group: Sequence[Continuation], scorer: Scorer) -> Point:
    scores = scorer.scores([c.text for c in group])
    verdicts = len(group) - scores.count(UNDECIDED)
    mean_tokens = sum(c.tokens for c in group) / len(group)
    return Point(strength, positive_share(scores), verdicts, len(group), perplexity(group), mean_tokens)
