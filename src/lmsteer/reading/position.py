"""Position: where a text lies on a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.reading.platt import PlattScaling


@dataclass(frozen=True)
class Position:
    """Where a text lies on a dimension (LM-Steer, Han et al., ACL 2024, section 5.3).

    Attributes:
        strengths: in rising order (S,).
        log_p: log-likelihood (S,) of the text at each, nats.
        shares: p(strength | text) (S,), all of them alike before the text is read.
        best: the strength under which the text is likeliest, between those that were tried.
        score: evidence of the whole text: log-likelihood at +1 less that at -1, nats.
        probability: that its label is positive, by the steer's calibration; None where it has none.
    """

    strengths: tuple[float, ...]
    log_p: tuple[float, ...]
    shares: tuple[float, ...]
    best: float
    score: float
    probability: float | None


def position(log_p: Tensor, strengths: Sequence[float], score: float, calibration: PlattScaling | None) -> Position:
    """From the log-likelihood (S,) of a text at strengths in rising order (S,)."""
    return Position(
        strengths=tuple(strengths),
        log_p=tuple(log_p.tolist()),
        shares=tuple(torch.softmax(log_p.double(), 0).tolist()),
        best=_peak(list(strengths), log_p.double().tolist()),
        score=score,
        probability=None if calibration is None else calibration.probability(score),
    )


def _peak(x: Sequence[float], y: Sequence[float]) -> float:
    """Where a parabola through the highest point and its neighbours peaks; at an end of the line, that end."""
    k = max(range(len(y)), key=y.__getitem__)
    if k in (0, len(y) - 1):
        return x[k]
    left, right = ((y[k] - y[k + side]) / (x[k] - x[k + side]) for side in (-1, 1))  # slopes, up and down
    if left == right:
        return x[k]
    return ((x[k - 1] + x[k]) * right - (x[k] + x[k + 1]) * left) / (2 * (right - left))
