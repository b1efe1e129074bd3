"""Scorers of an attribute of generated text, independent of the steers, behind one small interface."""

from lmsteer.evaluation.scorers.base import Scorer, ScorerMetrics, checked_scores, positive_share
from lmsteer.evaluation.scorers.named import SCORERS, scorer
from lmsteer.evaluation.scorers.vader import Vader

__all__ = ["SCORERS", "Scorer", "ScorerMetrics", "Vader", "checked_scores", "positive_share", "scorer"]
