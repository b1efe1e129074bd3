"""The unit of strength: the scale of W at strength 1, chosen on held-out rows.

Strength 1 means the label +1: the scale is the one at which held-out texts are likeliest at strength = label, or, so
that smaller strengths have an effect, a somewhat larger one (``largest_scale``). Of some hundred texts too few are held
out to tell that scale. It may come out next to nothing, and a strength would do nothing then. So W has a certain length
in the Fisher metric at least, ``SHORTEST``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.model.fisher import FisherFactors
from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import Direction, sweep
from lmsteer.util.linalg import in_float64

# Scales tried on held-out text, as multiples of the one that a quadratic model of the likelihood suggests.
_SCALES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.4, 2.8, 4.0, 5.6)
# Near its maximum the likelihood is flat, so a larger unit costs little. This share of the gain is preserved.
_PRESERVED = 0.9
# Of W at strength 1, √tr(Wᵀ C W F): steers of thousands of texts are 0.05 to 0.08 long, which is a divergence of some
# 0.005 nats a token.
SHORTEST = 0.05
# Rows on which the curvature of the gain is measured, with the head.
_SOME_ROWS = 2048

Factors = tuple[Tensor, Tensor]


def largest_scale(head: Head, rows: LabelledRows, a: Tensor, b: Tensor) -> float:
    """The largest scale of W = A Bᵀ (A, B (d, r)) that preserves nine tenths of the best gain at strength = label.

    The gain of a row is linear in the scale, minus a convex remainder. The slope is noisy, but needs no head and is
    taken from all rows; the remainder varies little and is taken from some of them.
    """
    guess, some = _guess(rows, a, b), rows.first_texts(_SOME_ROWS)
    scales = torch.tensor(_SCALES, dtype=torch.float64) * guess
    remainder = scales * _slopes(some, a, b).mean() - gains_at(head, some, [(a, b)], scales.tolist())[0].mean(1)
    gains = scales * _slopes(rows, a, b).mean() - remainder
    return _crossing(scales.tolist(), gains.tolist(), _PRESERVED * float(gains.max()))


def long_enough(scale: float, fisher: FisherFactors, a: Tensor, b: Tensor) -> float:
    """The scale of W = A Bᵀ (A, B (d, r)), or the one at which W has the length ``SHORTEST`` if it is shorter."""
    return max(scale, SHORTEST / math.sqrt(fisher.inner((a, b), (a, b))))


def _crossing(scales: Sequence[float], gains: Sequence[float], level: float) -> float:
    """The scale at which gains that rise and fall again cross a level on their way down, interpolated linearly.

    The nearest of the scales that were tried would jump if a rounding error decided between two of them.
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
    h, r = (in_float64(own, a.device) for own in (rows.h, rows.r))
    return rows.label * (((h @ a.double()) @ b.double().T) * r).sum(1).cpu()
