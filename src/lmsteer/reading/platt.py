"""Calibration: from the evidence of a text to a probability, and how well evidence tells texts apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NEWTON_STEPS, _HALVINGS = 100, 40


@dataclass(frozen=True)
class PlattScaling:
    """``p(label > 0) = σ(slope · evidence + offset)``.

    Attributes:
        slope: below 1 where evidence, which adds tokens up as if each were news, says too much.
        offset: above 0 where a text without evidence is likelier a positive one.
    """

    slope: float
    offset: float

    @classmethod
    def of_held_out(cls, held_out: Mapping[str, Any]) -> PlattScaling | None:
        """That of a steer card's held-out figures; None where they have none."""
        slope, offset = held_out.get("slope"), held_out.get("offset")
        return None if slope is None or offset is None else cls(slope, offset)

    def probability(self, evidence: float) -> float:
        """That the label of a text with so much evidence (nats) is positive."""
        z = self.slope * evidence + self.offset
        return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def fit_platt(evidence: Tensor, positive: Tensor) -> PlattScaling:
    """Fit a calibration to texts (Platt, 1999; his targets, which keep a clear cut from slopes without bound).

    Args:
        evidence: of each text (N,), nats.
        positive: whether its label is positive (N,).

    Returns:
        The calibration; NaN where one of the two kinds is missing.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return PlattScaling(math.nan, math.nan)
    target = torch.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2)).double()
    size = evidence.double().abs()
    # The middle one: a few long texts, whose evidence is large, do not set the unit.
    spread = size.median() if size.median() > 0 else size.max().clamp(min=1e-30)
    x = torch.stack([evidence.double() / spread, torch.ones(len(evidence), dtype=torch.float64)], 1)
    theta = torch.zeros(2, dtype=torch.float64)
    loss = _loss(x @ theta, target)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(x @ theta)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, x.T @ (target - p))
        # Where p is flat a whole step may overshoot: it is halved until it helps.
        sizes = (step / 2**k for k in range(_HALVINGS))
        better = next((part for part in sizes if _loss(x @ (theta + part), target) < loss), None)
        if better is None:
            break
        theta = theta + better
        loss = _loss(x @ theta, target)
    return PlattScaling(float(theta[0] / spread), float(theta[1]))


def _loss(z: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="sum")


def auc(evidence: Tensor, positive: Tensor) -> float:
    """Area under the curve: how often a positive text has more evidence than one that is not, ties counted half."""
    evidence = evidence.contiguous()
    ordered = evidence.sort().values
    ranks = (torch.searchsorted(ordered, evidence) + torch.searchsorted(ordered, evidence, right=True) + 1).double() / 2
    ones = int(positive.sum())
    zeros = len(positive) - ones
    return float(ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros) if ones and zeros else math.nan
