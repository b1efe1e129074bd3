"""The fit of Platt scaling, which turns the evidence of a text into a probability; and the area under the ROC curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmsteer.steer.platt import PlattScaling

_NEWTON_STEPS, _HALVINGS = 100, 40


def fit_platt(evidence: Tensor, positive: Tensor) -> PlattScaling:
    """Fit Platt scaling (Platt, 1999) by Newton's method, with Platt's targets, which bound the slope.

    Args:
        evidence: the evidence of each text (N,), in nats.
        positive: whether the label of each text is positive (N,).

    Returns:
        The scaling; NaN if all labels are positive, or none.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return PlattScaling(math.nan, math.nan)
    target = torch.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2)).double()
    size = evidence.double().abs()
    # The unit is the median, so that a few long texts with large evidence do not set it.
    spread = size.median() if size.median() > 0 else size.max().clamp(min=1e-30)
    x = torch.stack([evidence.double() / spread, torch.ones(len(evidence), dtype=torch.float64)], 1)
    theta = torch.zeros(2, dtype=torch.float64)
    loss = _loss(x @ theta, target)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(x @ theta)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, x.T @ (target - p))
        # A whole step may overshoot where p is flat: it is halved until the loss falls.
        parts = (step / 2**k for k in range(_HALVINGS))
        better = next((part for part in parts if _loss(x @ (theta + part), target) < loss), None)
        if better is None:
            break
        theta = theta + better
        loss = _loss(x @ theta, target)
    return PlattScaling(float(theta[0] / spread), float(theta[1]))


def _loss(z: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="sum")


def auc(evidence: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the share of pairs in which the positive text has more evidence; ties count half."""
    evidence = evidence.contiguous()
    ordered = evidence.sort().values
    ranks = (torch.searchsorted(ordered, evidence) + torch.searchsorted(ordered, evidence, right=True) + 1).double() / 2
    ones = int(positive.sum())
    zeros = len(positive) - ones
    return float(ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros) if ones and zeros else math.nan
