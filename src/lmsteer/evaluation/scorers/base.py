"""What every scorer is, and how far it is to be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

from lmsteer.errors import ScorerError

# Gives each text a number: a scorer's scores, a steer's readings, or anything else.
ScoreFunction = Callable[[Sequence[str]], Sequence[float]]
# A score that says nothing.
UNDECIDED = 0.5
# Before the name of a model that is not packaged.
HUB = "hf:"


@dataclass(frozen=True)
class ScorerMetrics:
    """How well a scorer judges labelled texts, none of which it was fitted on.

    Attributes:
        data: the name of the data set.
        texts: how many there are.
        verdicts: on how many of them the scorer is not undecided.
        accuracy: share of these verdicts that are right.
        auc: how often a text of the +1 end scores higher than one of the -1 end, ties counted half.
    """

    data: str
    texts: int
    verdicts: int
    accuracy: float
    auc: float

    def __str__(self) -> str:
        """In words, for people."""
        of = f"{self.texts:,}" if self.verdicts == self.texts else f"{self.verdicts:,} verdicts on {self.texts:,}"
        return f"right on {self.accuracy:.1%} of its {of} texts of {self.data} (area {self.auc:.3f})"


class Scorer(Protocol):
    """Judges texts on one dimension.

    Attributes:
        name: by which ``scorer`` finds it.
        fingerprint: of what it judges by: weights, or the version of a package.
        about: how well it does on labelled test data, to be told beside every figure; empty if nobody has measured it.
    """

    name: str
    fingerprint: str
    about: tuple[ScorerMetrics, ...]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """For each text how surely it lies at the +1 end, from 0 to 1; 0.5 is no verdict."""
        ...


def checked_scores(scorer: Scorer, texts: Sequence[str]) -> list[float]:
    """What a scorer, which may be anybody's code, says of texts.

    Raises:
        ScorerError: it fails, or says what is no score.
    """
    try:
        scores = [float(score) for score in scorer.scores(texts)]
    except Exception as error:
        raise ScorerError(f"the scorer {scorer.name} failed: {type(error).__name__}: {error}.") from error
    if len(scores) != len(texts) or not all(0 <= score <= 1 for score in scores):
        raise ScorerError(f"the scorer {scorer.name} must give each text a number from 0 to 1, and did not.")
    return scores


def positive_share(scores: Sequence[float]) -> float:
    """Share of scores above one half among those that are verdicts; nan if there are none."""
    above, below = (sum(sign * (score - UNDECIDED) > 0 for score in scores) for sign in (1, -1))
    return above / (above + below) if above + below else float("nan")


def packaged_metrics(name: str) -> tuple[ScorerMetrics, ...]:
    """The figures of a packaged scorer, which ``python -m benchmarks.scorers`` makes."""
    asset = files("lmsteer") / "assets" / "scorers" / "figures.json"
    return tuple(ScorerMetrics(**figures) for figures in json.loads(asset.read_text(encoding="utf-8"))[name])
