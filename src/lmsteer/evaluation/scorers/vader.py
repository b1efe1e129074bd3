"""VADER: sentiment by word lists and rules (Hutto and Gilbert, 2014); it shares no data with any steer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from lmsteer.evaluation.scorers.base import UNDECIDED, packaged_metrics

# VADER's own threshold: a compound score of a smaller size is undecided.
_VERDICT = 0.05


class Vader:
    """Sentiment by word lists and rules, without a language model. Its scores are 0, 0.5 (undecided) and 1."""

    name = "sentiment-vader"
    is_probability = True

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.metrics = packaged_metrics(self.name)
        self.fingerprint = version("vaderSentiment")
        self._analyser = SentimentIntensityAnalyzer()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """1 (positive), 0 (negative) or 0.5 (undecided) for each text."""
        compounds = [self._analyser.polarity_scores(text)["compound"] for text in texts]
        return [UNDECIDED if abs(compound) < _VERDICT else float(compound > 0) for compound in compounds]
