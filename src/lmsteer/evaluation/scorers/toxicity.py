"""A scorer of toxicity: alt-profanity-check, a linear model of words (on Davidson's tweets and Jigsaw's comments).

Its package unpickles the model that it contains, so it is an extra and is loaded only on request.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version

from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.base import packaged_metrics


class Toxicity:
    """Clean language: 1 is clean, 0 is offensive. It must not be measured on the data that it was fitted on."""

    name = "toxicity"
    is_probability = True

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its model was pickled by another version of scikit-learn
                from profanity_check import predict_prob
        except ImportError as error:
            raise DataError(
                "the scorer 'toxicity' needs alt-profanity-check: pip install 'lmsteer[scorers]'."
            ) from error
        self.metrics = packaged_metrics(self.name)
        self.fingerprint = version("alt-profanity-check")
        self._offensive = predict_prob

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability that each text is clean."""
        return [1 - float(p) for p in self._offensive(list(texts))] if texts else []
