"""The closed-form fit: one damped natural-gradient step, no learning rate, steps or seed.

Which way to go is told by two gradients at W = 0, each (d, d) and taken to length 1 in the damped Fisher metric::

    G_labels = E[(s - s̄) h rᵀ]     the likelihood of the texts under strength s = label
    G_credit = E[(q - q̄) h rᵀ]     how much each token raises what the text reads as (``credit``)

The Fisher matrix of the model's own text is, under the Kronecker approximation, C ⊗ F (``fisher_factors``). With
damping λ₁, λ₂ (in units of the mean diagonal) the natural gradient of their sum G is::

    W(λ₁, λ₂) = (C + λ₁ I)⁻¹ (G - α D) (F + λ₂ I)⁻¹                                           (d, d)

``α`` makes W orthogonal to the domain gradient D in the Fisher metric, so that turning the dial changes, to first
order, nothing in how likely the texts are on the whole: without it, the side of the dial that the base model shuns
also drifts into the corpus's own manner.

λ₁ and the unit of strength are chosen on held-out texts. λ₁ is the largest whose gain is within one standard error
of the best: the less damped, the more of W is of the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.fitting.credit import credited_gradient
from lmsteer.fitting.eos_component import fit_eos_component
from lmsteer.fitting.scale import largest_scale
from lmsteer.fitting.statistics import Statistics
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.util.linalg import factorise

_DAMPINGS_1 = (3.0, 10.0, 30.0)
# Held-out likelihood hardly tells one λ₂ from another, the dial does (docs/log.md).
_DAMPING_2 = 0.03
# The share of the spectrum (squared singular values under the Fisher metric) that the chosen rank holds.
_SPECTRUM_SHARE = 0.95


@dataclass(frozen=True)
class Solution:
    """A fitted multiply steer's factors, and how they were chosen.

    Attributes:
        factors: A, B (d, r), and A_eos, B_eos (d, 1) where the end of a text tells something.
        settings: dampings, scale, share of the spectrum that the rank holds, rows that credit was given on.
    """

    factors: dict[str, Tensor]
    settings: dict[str, Any]


class NaturalGradient:
    """The natural gradient for any damping, which costs two products in the eigenbases of C and F.

    Args:
        statistics: of the labelled texts.
        fisher: Fisher factors of the model.
        reader: w (d,), to give credit by; None goes by the labels alone.
    """

    def __init__(self, statistics: Statistics, fisher: FisherFactors, reader: Tensor | None = None) -> None:
        n, sums = statistics.counts.tokens, statistics.sums
        self.c, self.c_basis = fisher.c_eigen
        self.f, self.f_basis = fisher.f_eigen
        gradients = [(sums["G"] - statistics.counts.label / n * sums["D"]) / n]
        if reader is not None:
            blocks = [(rows.h, rows.r, rows.texts()[0]) for rows in statistics.sample]
            gradients.append(credited_gradient(blocks, reader))
        self._gradients = [self._rotate(gradient) for gradient in gradients]
        self._domain = self._rotate(sums["D"] / n)

    def whitened(self, damping_1: float, damping_2: float) -> Tensor:
        """(C + λ₁)^½ W (F + λ₂)^½ (d, d) in the eigenbases: squared singular values go with nats."""
        parts = [self._whiten(gradient, damping_1, damping_2) for gradient in self._gradients]
        gradient = torch.stack([part / part.norm().clamp(min=1e-30) for part in parts]).sum(0)
        domain = self._whiten(self._domain, damping_1, damping_2)
        return gradient - (gradient * domain).sum() / (domain * domain).sum().clamp(min=1e-30) * domain

    def factors(self, damping_1: float, damping_2: float) -> tuple[Tensor, Tensor, Tensor]:
        """A, B (d, d), whose first r columns are the best steer of rank r in the damped Fisher metric; the spectrum."""
        root_c, root_f = self._roots(damping_1, damping_2)
        a, b, spectrum = factorise(self.whitened(damping_1, damping_2))
        a, b = a.double(), b.double()
        return self.c_basis @ (a / root_c[:, None]), self.f_basis @ (b / root_f[:, None]), spectrum

    def matrix(self, damping_1: float, damping_2: float) -> Tensor:
        """W (d, d) at full rank."""
        root_c, root_f = self._roots(damping_1, damping_2)
        inner = self.whitened(damping_1, damping_2) / root_c[:, None] / root_f
        return self.c_basis @ inner @ self.f_basis.T

    def _roots(self, damping_1: float, damping_2: float) -> tuple[Tensor, Tensor]:
        damped_c = self.c.clamp(min=0) + damping_1 * self.c.mean()
        damped_f = self.f.clamp(min=0) + damping_2 * self.f.mean()
        return damped_c.sqrt(), damped_f.sqrt()

    def _rotate(self, matrix: Tensor) -> Tensor:
        return self.c_basis.T @ matrix @ self.f_basis

    def _whiten(self, matrix: Tensor, damping_1: float, damping_2: float) -> Tensor:
        root_c, root_f = self._roots(damping_1, damping_2)
        return matrix / root_c[:, None] / root_f


def solve(statistics: Statistics, fisher: FisherFactors, head: Head, *, rank: int | None = None) -> Solution:
    """Fit a steer from statistics.

    Args:
        statistics: of the labelled texts.
        fisher: Fisher factors of the model.
        head: of the model that they were gathered with; needed to choose the scales.
        rank: of the steer, its end part not counted; None chooses it from the spectrum.

    Raises:
        DataError: too few texts to hold some out at both ends of the dimension.
    """
    inside = statistics.held_out[~statistics.held_out.is_end]
    _check(statistics, inside)
    end = fit_eos_component(statistics, fisher, head)
    gradient = NaturalGradient(statistics, fisher, end.w if end else None)
    damping_1, damping_2 = _choose_damping(gradient, inside), _DAMPING_2
    a, b, singular_values = gradient.factors(damping_1, damping_2)
    spectrum = singular_values.double() ** 2
    shares = spectrum.cumsum(0) / spectrum.sum()
    rank = rank or int((shares < _SPECTRUM_SHARE).sum()) + 1
    a, b = a[:, :rank], b[:, :rank]
    scale = largest_scale(head, inside, a, b)
    settings = {
        "damping_1": damping_1,
        "damping_2": damping_2,
        "scale": scale,
        "rank_share": float(shares[rank - 1]),
        "credit_rows": statistics.sample_rows if end else 0,
    }
    settings |= {"damping_eos": end.damping} if end else {}
    factors = {"A": a * math.sqrt(scale), "B": b * math.sqrt(scale)}
    factors |= {"A_eos": end.w[:, None], "B_eos": end.u[:, None]} if end else {}
    return Solution({name: factor.float().contiguous() for name, factor in factors.items()}, settings)


def preview_held_out(statistics: Statistics, fisher: FisherFactors) -> str:
    """What the labels so far promise on the held-out texts, to first order and in a few words; empty if nothing yet."""
    rows = statistics.held_out[~statistics.held_out.is_end]
    _, labels = rows.texts()
    if statistics.counts.tokens < 2 or not len(labels) or labels.min() == labels.max():
        return ""
    w = NaturalGradient(statistics, fisher).matrix(_DAMPINGS_1[1], _DAMPING_2)
    evidence = rows.per_text(((rows.h.double() @ w) * rows.r).sum(1))
    told = labels != 0
    signs = (evidence.sign() == labels.sign())[told].float().mean()
    return f"held out: {len(labels)} texts, {float(signs):.0%} of their signs inside the text"


def _check(statistics: Statistics, inside: LabelledRows) -> None:
    _, labels = inside.texts()
    if not (len(labels) and labels.min() < labels.max()) or statistics.counts.tokens < 2:
        raise DataError(
            f"too few texts: of {statistics.texts}, {len(labels)} are held out to choose the damping by, and they "
            "must lie at both ends of the dimension. Give fifty texts or more."
        )
    n = statistics.counts
    if n.label_squared / n.tokens - (n.label / n.tokens) ** 2 < 1e-9:
        raise DataError("all texts that are not held out have one and the same label: there is no dimension to fit.")


def _choose_damping(gradient: NaturalGradient, inside: LabelledRows) -> float:
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
