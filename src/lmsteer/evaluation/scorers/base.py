"""The interface of scorers, and how far a scorer can be trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

from lmsteer.errors import ScorerError

# Gives each text a number: the scores of a scorer, the evidence of a steer, or any other.
ScoreFunction = Callable[[Sequence[str]], Sequence[float]]
# The score of a text on neither side.
UNDECIDED = 0.5
# The prefix of names of models that are not packaged.
HUB = "hf:"


@dataclass(frozen=True)
class ScorerMetrics:
    """How well a scorer does on labelled test texts, none of which it was fitted on.

    Attributes:
        data: name of the data set.
        texts: number of texts.
        verdicts: number of texts that the scorer is not undecided on.
        accuracy: share of these verdicts that are right.
        auc: probability that a text of the +1 end scores higher than one of the -1 end; ties count one half.
    """

    data: str
    texts: int
    verdicts: int
    accuracy: float
    auc: float

    def __str__(self) -> str:
        """The metrics in words."""
        of = f"{self.texts:,}" if self.verdicts == self.texts else f"{self.verdicts:,} verdicts on {self.texts:,}"
        return f"right on {self.accuracy:.1%} of its {of} texts of {self.data} (AUC {self.auc:.3f})"


class Scorer(Protocol):
    """Scores texts on one dimension.

    Attributes:
        name: the name by which ``scorer`` finds it.
        fingerprint: identifies what it scores by: weights, or the version of a package.
        is_probability: whether scores are probabilities of the +1 end, from 0 to 1, where 0.5 is undecided; else they
            are numbers in a unit of their own.
        metrics: its metrics on labelled test texts, which every report shows; empty if nobody has measured it.
    """

    name: str
    fingerprint: str
    is_probability: bool
    metrics: tuple[ScorerMetrics, ...]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The score of each text: its probability to lie at the +1 end, or a number in a unit of its own."""
        ...


def checked_scores(scorer: Scorer, texts: Sequence[str]) -> list[float]:
    """The scores of texts, from a scorer that may be anybody's code.

    Raises:
        ScorerError: the scorer fails, or does not give each text a number: from 0 to 1 if it is a probability.
    """
    try:
        scores = [float(score) for score in scorer.scores(texts)]
    except Exception as error:
        raise ScorerError(f"the scorer {scorer.name} failed: {type(error).__name__}: {error}.") from error
    low, high, words = (
        (0.0, 1.0, " from 0 to 1") if scorer.is_probability else (-sys.float_info.max, sys.float_info.max, "")
    )
    if len(scores) != len(texts) or not all(low <= score <= high for score in scores):
        raise ScorerError(f"the scorer {scorer.name} must give each text a number{words}, and did not.")
    return scores


def positive_share(scores: Sequence[float]) -> float:
    """Share of scores above one half among those that are not one half; nan if there are none."""
    above, below = (sum(sign * (score - UNDECIDED) > 0 for score in scores) for sign in (1, -1))
    return above / (above + below) if above + below else float("nan")


def packaged_metrics(name: str) -> tuple[ScorerMetrics, ...]:
    """The metrics of a packaged scorer, which ``python -m benchmarks.scorers`` measures."""
    asset = files("lmsteer") / "assets" / "scorers" / "metrics.json"
    return tuple(ScorerMetrics(**metrics) for metrics in json.loads(asset.read_text(encoding="utf-8"))[name])
