"""The end of a text: where the last hidden state has seen all of it.

Whether a text ends is one question with two answers, and what the whole text says weighs on it. That part of
a steer has rank one, a regression of the label times the direction of the head's input that moves the
end-of-text token and as little else as possible::

    W_end = w uᵀ,   w = (C_end + λ I)⁻¹ (g_end - s̄ h_end),   u ∝ (F + λ_u I)⁻¹ r_end                        (d,)

It acts on the one hidden state that a text ends at, when a text is read: when the model writes, it would only cut texts
short or never let them end. ``w`` by itself is the ``reader`` that ``credit`` is given by.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lmsteer.fitting.scale import best_scales
from lmsteer.fitting.statistics import Statistics
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.head import Head
from lmsteer.util.linalg import ridge

_DAMPING_U = 0.01
# Beside the hidden states' mean, a product with centred labels below this is rounding.
_NOTHING = 1e-9
_DAMPINGS = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class EosComponent:
    """A fitted end part.

    Attributes:
        w: the reader (d,), such that ends of texts are likeliest at strength = label under ``w uᵀ``.
        u: the direction of the end-of-text token (d,).
        damping: λ.
    """

    w: Tensor
    u: Tensor
    damping: float


def eos_direction(fisher: FisherFactors, r_end: Tensor) -> Tensor:
    """u (d,), which moves the end-of-text token and as little else as possible, of the mean residual there (d,)."""
    u = ridge(fisher.f, r_end, _DAMPING_U)
    return u / (u @ r_end)


def fit_eos_component(statistics: Statistics, fisher: FisherFactors, head: Head) -> EosComponent | None:
    """Fit the end part, its damping and scale by held-out ends; None where texts have no ends, or ends tell nothing."""
    n, sums, rows = statistics.counts.ends, statistics.sums, statistics.held_out
    if not n or rows.is_end.sum() < 2:
        return None
    u = eos_direction(fisher, sums["r_end"] / n)
    g = (sums["g_end"] - statistics.counts.end_label / n * sums["h_end"]) / n
    if g.norm() <= _NOTHING * sums["h_end"].norm() / n:
        return None  # the ends have one and the same label
    readers = [ridge(sums["C_end"] / n, g, damping) for damping in _DAMPINGS]
    scaled = best_scales(head, rows[rows.is_end], [(w[:, None], u[:, None]) for w in readers])
    best = max(range(len(readers)), key=lambda k: float(scaled[k][1].mean()))
    scale, gains = scaled[best]
    if gains.mean() <= gains.std() / len(gains) ** 0.5:
        return None
    return EosComponent(readers[best] * scale, u, _DAMPINGS[best])
