"""Scorers by name. The packages and models of a scorer are loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lmsteer.errors import DataError
from lmsteer.evaluation.measures import MEASURES
from lmsteer.evaluation.scorers.base import HUB, Scorer


def _sentiment() -> Scorer:
    from lmsteer.evaluation.scorers.sentiment import Sentiment

    return Sentiment()


def _vader() -> Scorer:
    from lmsteer.evaluation.scorers.vader import Vader

    return Vader()


def _toxicity() -> Scorer:
    from lmsteer.evaluation.scorers.toxicity import Toxicity

    return Toxicity()


def _measured(name: str) -> Scorer:
    from lmsteer.evaluation.scorers.measured import Measured

    return Measured(name)


SCORERS: dict[str, Callable[[], Scorer]] = {
    "sentiment": _sentiment,
    "sentiment-vader": _vader,
    "toxicity": _toxicity,
    **{name: partial(_measured, name) for name in MEASURES},
}


def check_scorer(name: str) -> None:
    """Refuse the name of no scorer, without loading one; classifiers of the Hub are not looked up.

    Raises:
        DataError: there is no such scorer.
    """
    if not name.startswith(HUB) and name not in SCORERS:
        raise DataError(
            f"unknown scorer {name!r}: there are {', '.join(SCORERS)}, and hf:MODEL=CLASS for any classifier."
        )


def scorer(name: str) -> Scorer:
    """Find a scorer by a name of ``SCORERS``, or by ``hf:MODEL`` or ``hf:MODEL=CLASS``: a classifier of transformers.

    Raises:
        DataError: there is no such scorer or class, or the scorer needs a package that is not installed.
        ModelError: a model cannot be fetched or loaded.
    """
    check_scorer(name)
    if name.startswith(HUB):
        from lmsteer.evaluation.scorers.hub import Classifier

        return Classifier(name.removeprefix(HUB))
    return SCORERS[name]()
