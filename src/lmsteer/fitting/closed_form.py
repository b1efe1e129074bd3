"""The closed-form fit: one damped natural-gradient step from statistics, no learning rate, steps or seed.

The log-likelihood of the texts under strength s = label has at W = 0 the gradient G; the Fisher matrix of the
model's own text is, under the Kronecker approximation, C ⊗ F (``curvature``). With damping λ₁, λ₂ (in units of the
mean diagonal) its natural gradient is::

    W(λ₁, λ₂) = (C + λ₁ I)⁻¹ (G - s̄ D - α D) (F + λ₂ I)⁻¹                                   (d, d)

``s̄`` is the mean label. ``α`` makes W orthogonal to the domain gradient D in the Fisher metric, so that turning
the dial changes, to first order, nothing in how likely the texts are on the whole: without it, the side of the
dial that the base model shuns also drifts into the corpus's own manner.

Where a text ends, the last hidden state has seen all of it, and whether it ends is one question with two
answers. That part is a logistic regression in closed form, along the one direction of the head's input that
moves the end-of-text token and, weighed by F, as little else as possible (rank one)::

    W_end = w uᵀ,   w = (C_end + λ I)⁻¹ (g_end - s̄ h_end),   u = (F + λ₂ I)⁻¹ r_end          (d,)

It serves reading alone; when the model writes it is left out. λ₁, λ and both scales are chosen on held-out texts.
λ₁ is the largest whose gain is within one standard error of the best: the less damped, the more of W is of the sample.
The steer's is the largest that keeps three quarters of the best held-out gain inside texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.fitting.curvature import Curvature
from lmsteer.fitting.rows import Rows
from lmsteer.fitting.statistics import Statistics
from lmsteer.head import Head
from lmsteer.steers.steer import factorise

_DAMPINGS_1 = (3.0, 10.0, 30.0)
# Held-out likelihood cannot tell λ₂ = 0.1 to 1 apart, the dial can: its negative side is best here (docs/log.md).
_DAMPING_2 = 0.3
_DAMPING_U = 0.1
_DAMPINGS_END = (0.03, 0.1, 0.3, 1.0, 3.0)
# The share of the spectrum (squared singular values, in nats) that the chosen rank holds.
_SPECTRUM_SHARE = 0.95
# Scales tried on held-out text, as multiples of the one that a quadratic model of the likelihood suggests.
_SCALES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8, 4.0, 5.6)
# Near its best the likelihood is flat: a larger unit, which makes a handier dial, costs little. This much is kept.
_KEPT = 0.75


# Shares of the best scale at the ends that are tried on whole texts, and rows of texts to try them on.
_END_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SOME_ROWS = 2048


@dataclass(frozen=True)
class Solution:
    """A fitted multiply steer's factors, and how they were chosen.

    Attributes:
        factors: A, B (d, r), and A_end, B_end (d, 1) where the end of a text tells something.
        settings: dampings, scales, rank, share of the spectrum that the rank holds.
    """

    factors: dict[str, Tensor]
    settings: dict[str, Any]


class NaturalGradient:
    """The natural gradient for any damping: C and F are decomposed once, a damping then costs two products."""

    def __init__(self, statistics: Statistics, curvature: Curvature) -> None:
        n = statistics.counts.tokens
        sums = statistics.sums
        self.variance = statistics.counts.label_squared / n - (statistics.counts.label / n) ** 2
        self.c, self.c_basis = torch.linalg.eigh(curvature.c)
        self.f, self.f_basis = torch.linalg.eigh(curvature.f)
        centred = (sums["G"] - statistics.counts.label / n * sums["D"]) / n
        self._gradient = self.c_basis.T @ centred @ self.f_basis / self.variance
        self._domain = self.c_basis.T @ (sums["D"] / n) @ self.f_basis

    def whitened(self, damping_1: float, damping_2: float) -> Tensor:
        """(C + λ₁)^½ W (F + λ₂)^½ (d, d) in the eigenbases: squared singular values are nats (times two)."""
        gradient, domain = (
            self._whiten(self._gradient, damping_1, damping_2),
            self._whiten(self._domain, damping_1, damping_2),
        )
        return gradient - (gradient * domain).sum() / (domain * domain).sum().clamp(min=1e-30) * domain

    def factors(self, damping_1: float, damping_2: float, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A, B (d, r) of the best steer of that rank under the damped Fisher metric, and the whole spectrum (d,)."""
        root_c, root_f = self._roots(damping_1, damping_2)
        a, b, spectrum = factorise(self.whitened(damping_1, damping_2), rank)
        a, b = a.double(), b.double()
        return self.c_basis @ (a / root_c[:, None]), self.f_basis @ (b / root_f[:, None]), spectrum

    def matrix(self, damping_1: float, damping_2: float) -> Tensor:
        """W (d, d) at full rank."""
        root_c, root_f = self._roots(damping_1, damping_2)
        inner = self.whitened(damping_1, damping_2) / root_c[:, None] / root_f
        return self.c_basis @ inner @ self.f_basis.T

    def damped_f_solve(self, vector: Tensor, damping_2: float) -> Tensor:
        """(F + λ₂ I)⁻¹ v (d,)."""
        return self.f_basis @ ((self.f_basis.T @ vector) / self._roots(0.0, damping_2)[1] ** 2)

    def _roots(self, damping_1: float, damping_2: float) -> tuple[Tensor, Tensor]:
        damped_c = self.c.clamp(min=0) + damping_1 * self.c.mean()
        damped_f = self.f.clamp(min=0) + damping_2 * self.f.mean()
        return damped_c.sqrt(), damped_f.sqrt()

    def _whiten(self, matrix: Tensor, damping_1: float, damping_2: float) -> Tensor:
        root_c, root_f = self._roots(damping_1, damping_2)
        return matrix / root_c[:, None] / root_f


def solve(statistics: Statistics, curvature: Curvature, head: Head, *, rank: int | None = None) -> Solution:
    """Fit a steer from statistics.

    Args:
        statistics: of the labelled texts.
        curvature: of the model.
        head: of the model that they were gathered with; needed to choose the scales.
        rank: of the steer, its end part not counted; None chooses it from the spectrum.

    Raises:
        DataError: too few texts to hold some out at both ends of the dimension.
    """
    _check(statistics)
    inside = statistics.held_out[~statistics.held_out.is_end]
    gradient = NaturalGradient(statistics, curvature)
    damping_1, damping_2 = _choose_damping(gradient, inside), _DAMPING_2
    spectrum = gradient.factors(damping_1, damping_2)[2].double() ** 2
    shares = spectrum.cumsum(0) / spectrum.sum()
    rank = rank or int((shares < _SPECTRUM_SHARE).sum()) + 1
    a, b, _ = gradient.factors(damping_1, damping_2, rank)
    scale = _scale_of(head, inside, a, b)
    settings = {
        "damping_1": damping_1,
        "damping_2": damping_2,
        "scale": scale,
        "rank_share": float(shares[rank - 1]),
    }
    factors = {"A": a * math.sqrt(scale), "B": b * math.sqrt(scale)}
    at_end, end_settings = _fit_end(statistics, gradient, head, factors)
    factors = {name: factor.float().contiguous() for name, factor in {**factors, **at_end}.items()}
    return Solution(factors, {**settings, **end_settings})


def outlook(statistics: Statistics, curvature: Curvature) -> str:
    """What the texts so far promise on the held-out ones, to first order and in a few words; empty if nothing yet."""
    rows = statistics.held_out[~statistics.held_out.is_end]
    _, labels = rows.texts()
    if statistics.counts.tokens < 2 or not len(labels) or labels.min() == labels.max():
        return ""
    w = NaturalGradient(statistics, curvature).matrix(_DAMPINGS_1[1], _DAMPING_2)
    evidence = rows.per_text(((rows.h.double() @ w) * rows.r).sum(1))
    told = labels != 0
    signs = (evidence.sign() == labels.sign())[told].float().mean()
    return f"held out: {len(labels)} texts, {float(signs):.0%} of their signs inside the text"


def _check(statistics: Statistics) -> None:
    _, labels = statistics.held_out.texts()
    if not (len(labels) and labels.min() < labels.max()) or statistics.counts.tokens < 2:
        raise DataError(
            f"too few texts: of {statistics.texts}, {len(labels)} are held out to choose the damping by, and they "
            "must lie at both ends of the dimension. Give fifty texts or more."
        )
    n = statistics.counts
    if n.label_squared / n.tokens - (n.label / n.tokens) ** 2 < 1e-9:
        raise DataError("all texts that are not held out have one and the same label: there is no dimension to fit.")


def _choose_damping(gradient: NaturalGradient, inside: Rows) -> float:
    """The largest λ₁ whose held-out gain, by a quadratic model, is within one standard error of the best."""
    tried = []
    for damping_1 in _DAMPINGS_1:
        moved = inside.h.double() @ gradient.matrix(damping_1, _DAMPING_2)
        slope = inside.label * (moved * inside.r).sum(1)
        scale = (slope.sum() / (slope**2).sum().clamp(min=1e-30)).clamp(min=0)
        gains = inside.per_text(scale * slope - scale**2 / 2 * slope**2)
        tried.append((float(gains.mean()), float(gains.std() / len(gains) ** 0.5), damping_1))
    best, error, _ = max(tried)
    return max(damping_1 for gain, _, damping_1 in tried if gain >= best - error)


def _scale_of(head: Head, rows: Rows, a: Tensor, b: Tensor) -> float:
    """The largest scale of W = A Bᵀ that keeps ``_KEPT`` of the best gain at strength = label."""
    guess, gains = _gains_by_scale(head, rows, a, b)
    means = gains.mean(1).tolist()
    good = [factor for factor, gain in zip(_SCALES, means, strict=True) if gain >= max(_KEPT * max(means), 0.0)]
    return guess * max(good, default=_SCALES[0])


def _best_scale(head: Head, rows: Rows, a: Tensor, b: Tensor) -> tuple[float, float]:
    """The scale of W = A Bᵀ under which the rows are likeliest at strength = label, and that gain a row."""
    guess, gains = _gains_by_scale(head, rows, a, b)
    best = int(gains.sum(1).argmax())
    return guess * _SCALES[best], float(gains[best].mean())


def _gains_by_scale(head: Head, rows: Rows, a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """A first guess of the scale, and the exact gains (S, N) at its multiples ``_SCALES``."""
    moved = (rows.h.double() @ a) @ b.T
    slope = rows.label * (moved * rows.r).sum(1)
    curvature = float((slope**2).sum().clamp(min=1e-30))
    guess = float(slope.sum()) / curvature
    guess = guess if guess > 0 else 1 / curvature**0.5
    return guess, gains_at(head, rows, moved.float(), [guess * factor for factor in _SCALES])


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


def _fit_end(
    statistics: Statistics, gradient: NaturalGradient, head: Head, inside: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The rank-one end part w uᵀ, as A_end and B_end (d, 1); nothing where texts have no end or it tells nothing."""
    n, sums, rows = statistics.counts.ends, statistics.sums, statistics.held_out
    if not n or not rows.is_end.any():
        return {}, {}
    u = gradient.damped_f_solve(sums["r_end"] / n, _DAMPING_U)
    u = (u / (u @ sums["r_end"]) * n)[:, None]
    c_end, identity = sums["C_end"] / n, torch.eye(len(u), dtype=u.dtype)
    g = (sums["g_end"] - statistics.counts.end_label / n * sums["h_end"]) / n
    tried = []
    for damping in _DAMPINGS_END:
        w = torch.linalg.solve(c_end + damping * c_end.diagonal().mean() * identity, g)[:, None]
        scale, gain = _best_scale(head, rows[rows.is_end], w, u)
        tried.append((gain, damping, w * scale))
    gain, damping, w = max(tried, key=lambda trial: trial[0])
    # The direction u isolates the end-of-text token, but not wholly: what it costs elsewhere is weighed here.
    some = _some_texts(rows)
    base = (some.h.double() @ inside["A"]) @ inside["B"].T
    moved = (some.h.double() @ w) @ u.T
    gains = [float(gains_at(head, some, (base + share * moved).float(), [1.0]).mean()) for share in _END_SHARES]
    share = _END_SHARES[gains.index(max(gains))]
    return ({"A_end": w * share, "B_end": u}, {"damping_end": damping, "share_end": share}) if share else ({}, {})


def _some_texts(rows: Rows) -> Rows:
    """The first texts by digest, up to ``_SOME_ROWS`` rows."""
    index, _ = rows.texts()
    lengths = torch.bincount(index)
    return rows[((lengths.cumsum(0) <= _SOME_ROWS) | (lengths.cumsum(0) == lengths[0]))[index]]
