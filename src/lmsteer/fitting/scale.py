"""The unit of strength: how far W goes at strength 1, chosen on held-out rows.

Strength 1 means the label +1: the scale is looked for where held-out texts are likeliest at strength = label, or, for
a handier dial, somewhat beyond (``largest_scale``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.fitting.rows import Rows
from lmsteer.head import Head

# Scales tried on held-out text, as multiples of the one that a quadratic model of the likelihood suggests.
_SCALES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.4, 2.8, 4.0, 5.6)
# Near its best the likelihood is flat: a larger unit, which makes a handier dial, costs little. This much is kept.
_KEPT = 0.9


def largest_scale(head: Head, rows: Rows, a: Tensor, b: Tensor) -> float:
    """The largest scale of W = A Bᵀ (A, B (d, r)) that keeps nine tenths of the best gain at strength = label."""
    guess, gains = _gains_by_scale(head, rows, a, b)
    means = gains.mean(1).tolist()
    good = [factor for factor, gain in zip(_SCALES, means, strict=True) if gain >= max(_KEPT * max(means), 0.0)]
    return guess * max(good, default=_SCALES[0])


def best_scale(head: Head, rows: Rows, a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """The scale of W = A Bᵀ under which the rows are likeliest at strength = label, and their gains (N,) in nats."""
    guess, gains = _gains_by_scale(head, rows, a, b)
    best = int(gains.sum(1).argmax())
    return guess * _SCALES[best], gains[best]


def gains_at(head: Head, rows: Rows, moved: Tensor, scales: Sequence[float]) -> Tensor:
    """Gain in log-likelihood (S, N) of rows at strength = label, for each scale of ``moved`` = h W (N, d)."""
    device = head.weight.device
    parts = [rows.h.new_zeros(len(scales), 0)]
    for h, shift, y, label in head.pieces(rows.h, moved, rows.target, rows.label):
        z0, z1 = head.raw(h.to(device)).float(), head.direction(shift.to(device))
        picked = [
            head.log_likelihood_of(z0 + (label.to(device) * scale)[:, None] * z1, y.to(device)) for scale in scales
        ]
        parts.append((torch.stack(picked) - head.log_likelihood_of(z0, y.to(device))).cpu())
    return torch.cat(parts, 1)


def _gains_by_scale(head: Head, rows: Rows, a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """A first guess of the scale, and the exact gains (S, N) at its multiples ``_SCALES``."""
    moved = (rows.h.double() @ a) @ b.T
    slope = rows.label * (moved * rows.r).sum(1)
    curvature = float((slope**2).sum().clamp(min=1e-30))
    guess = float(slope.sum()) / curvature
    guess = guess if guess > 0 else 1 / curvature**0.5
    return guess, gains_at(head, rows, moved.float(), [guess * factor for factor in _SCALES])
