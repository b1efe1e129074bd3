"""Attribute scorers: independent judges of generated text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

# VADER's own thresholds (Hutto & Gilbert, 2014): a compound score between them is no verdict.
_VERDICT = 0.05


class Scorer(Protocol):
    """Judges texts: +1 and -1 are verdicts, 0 is none."""

    name: str

    def verdicts(self, texts: Sequence[str]) -> list[int]:
        """A verdict for each text."""
        ...


class Vader:
    """Sentiment by word lists and rules; knows nothing of any language model."""

    name = "vaderSentiment"

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyser = SentimentIntensityAnalyzer()

    def verdicts(self, texts: Sequence[str]) -> list[int]:
        """+1, -1 or 0 for each text."""
        scores = [self._analyser.polarity_scores(text)["compound"] for text in texts]
        return [(score >= _VERDICT) - (score <= -_VERDICT) for score in scores]


def positive_share(verdicts: Sequence[int]) -> float:
    """Share of +1 among the verdicts that are not 0; nan if there are none."""
    positive, negative = verdicts.count(1), verdicts.count(-1)
    return positive / (positive + negative) if positive + negative else float("nan")
