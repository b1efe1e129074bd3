"""The unit of strength: how far W goes at strength 1, chosen on held-out rows.

Strength 1 means the label +1: the scale is looked for where held-out texts are likeliest at strength = label, or, for
a handier dial, somewhat beyond (``largest_scale``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import Direction, sweep

# Scales tried on held-out text, as multiples of the one that a quadratic model of the likelihood suggests.
_SCALES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.4, 2.8, 4.0, 5.6)
# Near its best the likelihood is flat: a larger unit, which makes a handier dial, costs little. This much is kept.
_KEPT = 0.9
# Rows that the head is run over to see how the gain bends.
_SOME_ROWS = 2048

Factors = tuple[Tensor, Tensor]


def largest_scale(head: Head, rows: LabelledRows, a: Tensor, b: Tensor) -> float:
    """The largest scale of W = A Bᵀ (A, B (d, r)) that keeps nine tenths of the best gain at strength = label.

    The gain of a row is its slope at 0, known of every row without the head and noisy, less a convex remainder,
    which varies little from row to row and is taken from some of them.
    """
    guess, some = _guess(rows, a, b), rows.first_texts(_SOME_ROWS)
    scales = torch.tensor(_SCALES, dtype=torch.float64) * guess
    remainder = scales * _slopes(some, a, b).mean() - gains_at(head, some, [(a, b)], scales.tolist())[0].mean(1)
    gains = scales * _slopes(rows, a, b).mean() - remainder
    return _crossing(scales.tolist(), gains.tolist(), _KEPT * float(gains.max()))


def _crossing(scales: Sequence[float], gains: Sequence[float], level: float) -> float:
    """Where gains that rise and fall again cross a level on their way down, between the scales that were tried.

    A step to the nearest one would make the unit of strength jump where a rounding error decides between two.
    """
    if level <= 0:
        return scales[0]
    last = max(k for k, gain in enumerate(gains) if gain >= level)
    if last + 1 == len(scales):
        return scales[last]
    share = (gains[last] - level) / (gains[last] - gains[last + 1])
    return scales[last] + share * (scales[last + 1] - scales[last])


def best_scales(head: Head, rows: LabelledRows, factors: Sequence[Factors]) -> list[tuple[float, Tensor]]:
    """For each of several W = A Bᵀ, the scale under which rows are likeliest at strength = label; gains (N,) there."""
    guesses = [_guess(rows, a, b) for a, b in factors]
    scaled = [(a * guess, b) for (a, b), guess in zip(factors, guesses, strict=True)]
    gains = gains_at(head, rows, scaled, _SCALES)
    best = gains.sum(2).argmax(1).tolist()
    return [(guess * _SCALES[k], lines[k]) for guess, lines, k in zip(guesses, gains, best, strict=True)]


def gains_at(head: Head, rows: LabelledRows, factors: Sequence[Factors], scales: Sequence[float]) -> Tensor:
    """Gain in log-likelihood (K, S, N) of rows at strength = label, for each of K W = A Bᵀ and each scale of it."""
    directions = [Direction.of_factors(head, a, b) for a, b in factors]
    return sweep(head, rows.h, rows.target, directions, [rows.label * scale for scale in scales]) - rows.log_p


def _guess(rows: LabelledRows, a: Tensor, b: Tensor) -> float:
    """The scale that a quadratic model of the likelihood suggests."""
    slopes = _slopes(rows, a, b)
    curvature = float((slopes**2).sum().clamp(min=1e-30))
    guess = float(slopes.sum()) / curvature
    return guess if guess > 0 else 1 / curvature**0.5


def _slopes(rows: LabelledRows, a: Tensor, b: Tensor) -> Tensor:
    """Slope (N,) of each row's gain at scale 0: s h W r."""
    return rows.label * (((rows.h.double() @ a.double()) @ b.double().T) * rows.r).sum(1)
