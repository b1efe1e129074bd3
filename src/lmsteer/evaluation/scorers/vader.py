"""VADER: sentiment by word lists and rules (Hutto & Gilbert, 2014); it shares no data with any steer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from lmsteer.evaluation.scorers.base import UNDECIDED, packaged_metrics

# VADER's own thresholds: a compound score between them is no verdict.
_VERDICT = 0.05


class Vader:
    """Sentiment by word lists and rules; knows nothing of any language model. Its verdicts are 0, 0.5 and 1."""

    name = "sentiment-vader"

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.about = packaged_metrics(self.name)
        self.fingerprint = version("vaderSentiment")
        self._analyser = SentimentIntensityAnalyzer()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """1, 0 or, for no verdict, 0.5 for each text."""
        compounds = [self._analyser.polarity_scores(text)["compound"] for text in texts]
        return [UNDECIDED if abs(compound) < _VERDICT else float(compound > 0) for compound in compounds]
