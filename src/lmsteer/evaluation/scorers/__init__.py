"""Attribute scorers: independent judges of generated text, behind one small interface."""

from lmsteer.evaluation.scorers.base import Measured, Scorer, judged, positive_share
from lmsteer.evaluation.scorers.named import SCORERS, scorer
from lmsteer.evaluation.scorers.vader import Vader

__all__ = ["SCORERS", "Measured", "Scorer", "Vader", "judged", "positive_share", "scorer"]
