"""The closed-form fit: one damped natural-gradient step, without learning rate, steps or seed.

The direction of the step is the sum of two gradients at W = 0, each (d, d) and scaled to length 1 in the damped Fisher
metric::

    G_labels = E[(s - s̄) h rᵀ]     of the likelihood of the texts at strength s = label
    G_credit = E[(q - q̄) h rᵀ]     of the label that a probe predicts from the text (``credit``)

The Fisher matrix of the model's own text is, under the Kronecker approximation, C ⊗ F (``fisher_factors``). With
damping λ₁, λ₂ (in units of the mean diagonal) the natural gradient of their sum G is::

    W(λ₁, λ₂) = (C + λ₁ I)⁻¹ (G - α D) (F + λ₂ I)⁻¹                                           (d, d)

``α`` makes W orthogonal to the domain gradient D in the Fisher metric, so that the strength does not change, to first
order, how likely the texts are as a whole. Without it, one side of the dimension also drifts into the manner of the
corpus.

λ₁ and the unit of strength are chosen on held-out texts (the unit has a least length: ``scale``). λ₁ is the largest
whose gain is within one standard error of the best: with less damping, W fits the sample more than the dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, Self, TypedDict

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.fitting.credit_assignment import credited_gradient
from lmsteer.fitting.eos_component import fit_eos_component
from lmsteer.fitting.scale import largest_scale, long_enough
from lmsteer.fitting.statistics import Statistics
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.util.linalg import Factorisation, chain_product, in_float64

DAMPINGS_1 = (3.0, 10.0, 30.0)
# Held-out likelihood hardly depends on λ₂, but the quality of generated text does (docs/log.md).
DAMPING_2 = 0.03


class SolutionSettings(TypedDict):
    """How a solution was chosen.

    Attributes:
        damping_1: λ₁.
        damping_2: λ₂.
        scale: factor on W that makes its unit of strength.
        rank_share: share of the spectrum that the rank holds.
        credit_rows: number of rows for credit assignment; 0 without an end component.
        damping_eos: λ of the end component, if there is one.
    """

    damping_1: float
    damping_2: float
    scale: float
    rank_share: float
    credit_rows: int
    damping_eos: NotRequired[float]


@dataclass(frozen=True)
class Solution:
    """The factors of a multiply steer, and how they were chosen.

    Attributes:
        factors: A, B (d, r), and A_eos, B_eos (d, 1) if the ends of texts are informative.
        settings: how they were chosen.
    """

    factors: dict[str, Tensor]
    settings: SolutionSettings


class NaturalGradient:
    """The natural gradient for any damping, at two products in the eigenbases of C and F each.

    Args:
        gradients: gradients at W = 0, each (d, d); each is scaled to length 1 in the damped Fisher metric.
        fisher: Fisher factors of the model.
        domain: D (d, d), to which the natural gradient is made orthogonal; None for none.
        weights: the weight of each gradient after that; 1 by default.
    """

    def __init__(
        self,
        gradients: Iterable[Tensor],
        fisher: FisherFactors,
        domain: Tensor | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._fisher = fisher
        self._gradients = [fisher.rotated(gradient) for gradient in gradients]
        self._weights = weights or [1.0] * len(self._gradients)
        self._domain = None if domain is None else fisher.rotated(domain)

    @classmethod
    def of_statistics(cls, statistics: Statistics, fisher: FisherFactors, probe: Tensor | None = None) -> Self:
        """The natural gradient of labelled texts.

        Args:
            statistics: statistics of the labelled texts.
            fisher: Fisher factors of the model.
            probe: w (d,), the probe for credit assignment; without it the gradient is that of the labels alone.
        """
        n, sums = statistics.counts.tokens, statistics.sums

        def gradients() -> Iterator[Tensor]:  # one at a time, since each is as large as a sum
            yield (sums["G"] - statistics.counts.label / n * sums["D"]) / n
            if probe is not None:
                yield credited_gradient([(rows.h, rows.r, rows.texts()[0]) for rows in statistics.sample], probe)

        return cls(gradients(), fisher, sums["D"] / n)

    def whitened(self, damping_1: float, damping_2: float) -> Tensor:
        """(C + λ₁)^½ W (F + λ₂)^½ (d, d) in the eigenbases; its squared singular values are proportional to nats."""
        gradient = torch.zeros_like(self._gradients[0])
        for part, weight in zip(self._gradients, self._weights, strict=True):
            own = self._whiten(part, damping_1, damping_2)
            gradient += own.mul_(weight / own.norm().clamp(min=1e-30))
        if self._domain is not None:
            domain = self._whiten(self._domain, damping_1, damping_2).flatten()
            gradient -= (gradient.flatten() @ domain / (domain @ domain).clamp(min=1e-30) * domain).view_as(gradient)
        return gradient

    def truncated(self, damping_1: float, damping_2: float, rank: int | None = None) -> Factorisation:
        """A, B (d, r), the best steer of rank r in the damped Fisher metric; by default the least that holds 95 %."""
        return self._fisher.factorised(self.whitened(damping_1, damping_2), damping_1, damping_2, rank)

    def rotated(self, damping_1: float, damping_2: float) -> Tensor:
        """W (d, d) at full rank in the eigenbases of C and F."""
        return self._whiten(self.whitened(damping_1, damping_2), damping_1, damping_2)

    def matrix(self, damping_1: float, damping_2: float) -> Tensor:
        """W (d, d) at full rank."""
        inner = self.rotated(damping_1, damping_2)
        return chain_product(self._fisher.c_eigen.vectors, inner, self._fisher.f_eigen.vectors.T)

    def _whiten(self, matrix: Tensor, damping_1: float, damping_2: float) -> Tensor:
        root_c, root_f = self._fisher.roots(damping_1, damping_2)
        return (matrix / root_c[:, None]).div_(root_f)


def check_rank(rank: int | None, hidden_size: int) -> None:
    """Refuse a rank that no W of the model can have; None, which leaves the choice to the spectrum, passes.

    Raises:
        DataError: the rank is out of range.
    """
    if rank is not None and not 1 <= rank <= hidden_size:
        raise DataError(f"the rank must be from 1 to the model's hidden size, {hidden_size}, not {rank}.")


def solve(statistics: Statistics, fisher: FisherFactors, head: Head, *, rank: int | None = None) -> Solution:
    """Fit a steer from statistics.

    Args:
        statistics: statistics of the labelled texts.
        fisher: Fisher factors of the model.
        head: head of the model that they were gathered with, for the choice of scales.
        rank: rank of the steer without its eos component; None chooses it from the spectrum.

    Raises:
        DataError: too few texts to hold some out at both ends of the dimension.
    """
    inside = statistics.held_out[~statistics.held_out.is_end]
    _check(statistics, inside)
    fisher = fisher.to(statistics.device)
    end = fit_eos_component(statistics, fisher, head)
    gradient = NaturalGradient.of_statistics(statistics, fisher, end.probe if end else None)
    damping_1, damping_2 = _choose_damping(gradient, fisher, inside), DAMPING_2
    a, b, rank_share = gradient.truncated(damping_1, damping_2, rank)
    scale = long_enough(largest_scale(head, inside, a, b), fisher, a, b)
    settings = SolutionSettings(
        damping_1=damping_1,
        damping_2=damping_2,
        scale=scale,
        rank_share=rank_share,
        credit_rows=statistics.sample_rows if end else 0,
    )
    if end:
        settings["damping_eos"] = end.damping
    factors = {"A": a * math.sqrt(scale), "B": b * math.sqrt(scale)}
    factors |= {"A_eos": end.probe[:, None], "B_eos": end.direction[:, None]} if end else {}
    return Solution({name: factor.float().cpu().contiguous() for name, factor in factors.items()}, settings)


def preview_held_out(statistics: Statistics, fisher: FisherFactors) -> str:
    """A few words on how well the statistics so far do on the held-out texts, to first order; empty without any."""
    rows = statistics.held_out[~statistics.held_out.is_end]
    _, labels = rows.texts()
    if statistics.counts.tokens < 2 or not len(labels) or labels.min() == labels.max():
        return ""
    w = NaturalGradient.of_statistics(statistics, fisher).matrix(DAMPINGS_1[1], DAMPING_2)
    h, r = (in_float64(own, w.device) for own in (rows.h, rows.r))
    evidence = rows.per_text(((h @ w) * r).sum(1).cpu())
    labelled = labels != 0
    signs = (evidence.sign() == labels.sign())[labelled].float().mean()
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
        raise DataError("all texts that are not held out have the same label: there is no dimension to fit.")


def _choose_damping(gradient: NaturalGradient, fisher: FisherFactors, inside: LabelledRows) -> float:
    """The largest λ₁ whose held-out gain, by a quadratic model, is within one standard error of the best."""
    # In the eigenbases, in which each damping takes one product. In float32, as the rows are: gains are compared with
    # their standard error.
    h, r = (
        own.to(vectors.device) @ vectors.float()
        for own, (_, vectors) in zip((inside.h, inside.r), (fisher.c_eigen, fisher.f_eigen), strict=True)
    )
    tried = []
    for damping_1 in DAMPINGS_1:
        w = gradient.rotated(damping_1, DAMPING_2).float()
        slope = inside.label * ((h @ w) * r).sum(1).cpu().double()
        scale = (slope.sum() / (slope**2).sum().clamp(min=1e-30)).clamp(min=0)
        gains = inside.per_text(scale * slope - scale**2 / 2 * slope**2)
        tried.append((float(gains.mean()), float(gains.std() / len(gains) ** 0.5), damping_1))
    best, error, _ = max(tried)
    return max(damping_1 for gain, _, damping_1 in tried if gain >= best - error)
