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
        strengths: the strengths among which the position is found, ascending (S,).
        log_p: log-likelihood (S,) of the text at each strength, in nats; interpolated at those that it was not read at.
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


def interpolated(log_p: Tensor, tried: Sequence[float], strengths: Sequence[float]) -> Tensor:
    """The log-likelihood (S,) of a text at some strengths, on Lagrange's polynomial through those that were tried.

    Args:
        log_p: log-likelihood (R,) of the text at each strength that was tried.
        tried: these strengths (R,), no two of them the same.
        strengths: the strengths (S,). At those that were tried the log-likelihood stays as it is.
    """
    x, known = torch.tensor(strengths, dtype=torch.float64), torch.tensor(tried, dtype=torch.float64)
    others = ~torch.eye(len(known), dtype=torch.bool)
    # weights[s, r] = Π over the other nodes of (x - node) / (own node - node): 1 at its own node, 0 at the others
    ratios = (x[:, None, None] - known) / torch.where(others, known[:, None] - known, 1.0)
    weights = torch.where(others, ratios, 1.0).prod(-1)
    return weights @ log_p.double()


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
