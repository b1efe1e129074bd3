"""The position of a text on a style dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.steer.platt import PlattScaling


@dataclass(frozen=True)
class Position:
    """The position of a text on a dimension (LM-Steer, Han et al., ACL 2024, section 5.3).

    Attributes:
        strengths: the strengths that were tried, ascending (S,).
        log_p: log-likelihood (S,) of the text at each strength, in nats.
        shares: p(strength | text) (S,) under a uniform prior.
        best: the strength at which the text is likeliest, interpolated between those that were tried.
        score: evidence of the whole text: its log-likelihood at +1 minus that at -1, in nats.
        probability: probability that the label is positive, by the steer's Platt scaling; None if it has none.
    """

    strengths: tuple[float, ...]
    log_p: tuple[float, ...]
    shares: tuple[float, ...]
    best: float
    score: float
    probability: float | None


def position(log_p: Tensor, strengths: Sequence[float], score: float, platt: PlattScaling | None) -> Position:
    """The position of a text, from its log-likelihood (S,) at ascending strengths (S,)."""
    return Position(
        strengths=tuple(strengths),
        log_p=tuple(log_p.tolist()),
        shares=tuple(torch.softmax(log_p.double(), 0).tolist()),
        best=_peak(list(strengths), log_p.double().tolist()),
        score=score,
        probability=None if platt is None else platt.probability(score),
    )


def _peak(x: Sequence[float], y: Sequence[float]) -> float:
    """The peak of the parabola through the highest point and its neighbours; an end point if that is the highest."""
    k = max(range(len(y)), key=y.__getitem__)
    if k in (0, len(y) - 1):
        return x[k]
    left, right = ((y[k] - y[k + side]) / (x[k] - x[k + side]) for side in (-1, 1))  # slopes, up and down
    if left == right:
        return x[k]
    return ((x[k - 1] + x[k]) * right - (x[k] + x[k + 1]) * left) / (2 * (right - left))
