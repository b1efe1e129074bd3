"""The closed form from few texts, none of which is held out.

An eighth of sixty texts is too few to choose a damping by, and the scale at which so few texts are likeliest is next to
nothing: most of W is chance, and it is right that they do not become likelier by it. So nothing is chosen here.
The damping is the largest of those that a fit of many texts chooses from, and the scale gives W the length in the
Fisher metric that steers of thousands of texts have at strength 1. Then the same strength costs the model as much text
quality, however few the texts are, and what it moves depends on how much of W is the style.

The figures on the card are cross-validated: the texts are divided into folds, and each fold is read under a steer that
was fitted on the others. They say what a steer of a little fewer texts is worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import DAMPING_2, DAMPINGS_1, NaturalGradient, Solution, SolutionSettings
from lmsteer.fitting.credit_assignment import weighted_product
from lmsteer.fitting.statistics import Statistics
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.rows import LabelledRows

# Fewer texts than this are few.
FEW_TEXTS = 200
# Of them, so many must lie on either side of the mean label.
_LEAST = 4
_FOLDS = 8
# The length of W at strength 1, with which the Fisher matrix prices it: that of the steers that ship, .05 to .08.
LENGTH = 0.06


def has_few(statistics: Statistics) -> bool:
    """Whether statistics are of few texts, all of whose rows are kept."""
    counts = statistics.counts
    return statistics.texts < FEW_TEXTS and statistics.sample_rows == counts.tokens + counts.ends


def rows_of(statistics: Statistics) -> LabelledRows:
    """The rows of all texts of statistics that have few.

    Raises:
        DataError: there are fewer than four texts on either side of the mean label.
    """
    rows = LabelledRows.join([*statistics.sample, statistics.held_out])
    _, labels = rows.texts()
    above, below = (int((side > 1e-6).sum()) for side in (labels - labels.mean(), labels.mean() - labels))
    if min(above, below) < _LEAST:
        raise DataError(
            f"too few texts: {above} have a label above the mean and {below} one below it, and a fit needs {_LEAST} or "
            "more of either kind. Give more texts, or describe both ends in words (--positive and --negative)."
        )
    return rows


def solve_few(rows: LabelledRows, fisher: FisherFactors, *, rank: int | None = None) -> Solution:
    """Fit a steer from the rows of few texts.

    Args:
        rows: rows of whole texts.
        fisher: Fisher factors of the model.
        rank: rank of the steer; None chooses it from the spectrum.
    """
    inside = rows[~rows.is_end]
    label = inside.label.double()
    n = len(inside)
    gradient = weighted_product(inside.h, inside.r, (label - label.mean()) / n)
    domain = weighted_product(inside.h, inside.r, torch.full_like(label, 1 / n))
    damping_1, damping_2 = DAMPINGS_1[-1], DAMPING_2
    a, b, rank_share = NaturalGradient([gradient], fisher, domain).truncated(damping_1, damping_2, rank)
    scale = LENGTH / math.sqrt(fisher.inner((a, b), (a, b)))
    settings = SolutionSettings(
        damping_1=damping_1, damping_2=damping_2, scale=scale, rank_share=rank_share, credit_rows=0
    )
    root = math.sqrt(scale)
    return Solution({"A": (a * root).float().contiguous(), "B": (b * root).float().contiguous()}, settings)


def folds(rows: LabelledRows) -> Iterator[tuple[LabelledRows, LabelledRows]]:
    """For each fold, its rows and those of the other folds; the texts of a group stay together."""
    _, group = torch.unique(rows.digest[:, 0], return_inverse=True)
    count = min(_FOLDS, int(group.max()) + 1)
    for fold in range(count):
        chosen = group % count == fold
        yield rows[chosen], rows[~chosen]
