"""The end component of a steer: how the whole text bears on its end-of-text token.

The hidden state that predicts the end of a text has seen all of it. The end component has rank one: a linear probe,
which is a regression of the label on those hidden states, times the direction of the head's input that moves the
end-of-text token and as little else as possible::

    W_end = w uᵀ,   w = (C_end + λ I)⁻¹ (g_end - s̄ h_end),   u ∝ (F + λ_u I)⁻¹ r_end                        (d,)

It acts only when a text is read, and only on the hidden state at its end: during generation it would make texts too
short or endless. The probe ``w`` also serves credit assignment (``credit``).
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
# A product with centred labels that is smaller than this share of the hidden states' mean is rounding.
_NOTHING = 1e-9
_DAMPINGS = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class EosComponent:
    """A fitted end component.

    Attributes:
        probe: w (d,), scaled so that the ends of texts are likeliest at strength = label under ``w uᵀ``.
        direction: u (d,), the direction of the end-of-text token.
        damping: λ.
    """

    probe: Tensor
    direction: Tensor
    damping: float


def eos_direction(fisher: FisherFactors, r_end: Tensor) -> Tensor:
    """u (d,), which moves the end-of-text token and as little else as possible, of the mean residual there (d,)."""
    values, vectors = fisher.f_eigen
    u = vectors @ ((vectors.T @ r_end) / (values + _DAMPING_U * values.mean()))
    return u / (u @ r_end)


def fit_eos_component(statistics: Statistics, fisher: FisherFactors, head: Head) -> EosComponent | None:
    """Fit the end component; damping and scale are chosen on held-out ends.

    Returns:
        The component; None if the texts have no ends, or if their ends are not informative.
    """
    n, sums, rows = statistics.counts.ends, statistics.sums, statistics.held_out
    if not n or rows.is_end.sum() < 2:
        return None
    u = eos_direction(fisher, sums["r_end"] / n)
    g = (sums["g_end"] - statistics.counts.end_label / n * sums["h_end"]) / n
    if g.norm() <= _NOTHING * sums["h_end"].norm() / n:
        return None  # all ends have the same label
    probes = [ridge(sums["C_end"] / n, g, damping) for damping in _DAMPINGS]
    scaled = best_scales(head, rows[rows.is_end], [(w[:, None], u[:, None]) for w in probes])
    best = max(range(len(probes)), key=lambda k: float(scaled[k][1].mean()))
    scale, gains = scaled[best]
    if gains.mean() <= gains.std() / len(gains) ** 0.5:
        return None
    return EosComponent(probes[best] * scale, u, _DAMPINGS[best])
