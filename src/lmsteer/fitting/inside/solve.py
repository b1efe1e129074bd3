"""The step inside the model: a natural gradient at each site, shares between the sites, and the unit of strength.

At each site the map is the natural gradient of its own sums in the Fisher metric of the site (``NaturalGradient``), of
Fisher length 1. Sites share the strength by what each gains on held-out texts at that length: under a price that is a
sum over sites, the gain is largest where the shares are proportional to the gains. So one strength moves all sites.

What the price leaves out is that sites act on one another. So the unit of strength is measured: at strength 1 the model
diverges from itself by ``UNIT`` nats a token of its own text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import DAMPING_2, NaturalGradient
from lmsteer.fitting.inside.fisher import OwnText
from lmsteer.model.fisher import FisherFactors
from lmsteer.steer.steer import LowRank, Steer

# KL(p₀ ‖ p_s) at strengths 1 and -1, in nats a token of the model's own text.
UNIT = 0.005
DAMPING_1 = 10.0
# The unit is measured at this divergence, where strengths are as large as they are when texts are written.
_MEASURED = 0.08
_ROUNDS, _CLOSE, _STEP = 8, 0.1, 16.0


@dataclass(frozen=True)
class SiteMap:
    """The map of a site, of Fisher length 1 before it is scaled.

    Attributes:
        factors: A (n, r) and B (m, r), float64.
        gain: the slope of the held-out texts' log-likelihood along it, times their labels, in nats a token.
        rank_share: the share of the spectrum that its rank holds.
    """

    factors: LowRank
    gain: float
    rank_share: float


def site_map(
    gradients: Sequence[Tensor], domain: Tensor, fisher: FisherFactors, held_out: Tensor, rank: int | None
) -> SiteMap:
    """The natural gradient at a site, and what it gains on held-out texts.

    Args:
        gradients: the gradients at W = 0 (n, m).
        domain: the domain's (n, m), to which the map is made orthogonal.
        fisher: the Fisher factors of the site.
        held_out: the gradient of held-out texts (n, m).
        rank: rank of the map; None chooses it from the spectrum.
    """
    fisher = fisher.to(domain.device)
    a, b, share = NaturalGradient(gradients, fisher, domain).truncated(DAMPING_1, DAMPING_2, rank)
    return unit_map(LowRank(a, b), fisher, held_out, share)


def unit_map(factors: LowRank, fisher: FisherFactors, held_out: Tensor, rank_share: float) -> SiteMap:
    """A map scaled to Fisher length 1, and what it gains there on held-out texts: ``tr(Aᵀ H B)``."""
    a, b = factors
    unit = LowRank(a, b / math.sqrt(fisher.inner((a, b), (a, b))))
    gain = float(((held_out.T @ unit.a) * unit.b).sum())
    return SiteMap(LowRank(unit.a.cpu(), unit.b.cpu()), gain, rank_share)


def shared(maps: Mapping[str, SiteMap]) -> dict[str, SiteMap]:
    """The maps, each scaled by its share of the strength; those that gain nothing are left out."""
    length = math.sqrt(sum(max(each.gain, 0.0) ** 2 for each in maps.values()))
    shares = {name: each.gain / length for name, each in maps.items() if each.gain > 0}
    return {
        name: replace(maps[name], factors=LowRank(maps[name].factors.a, maps[name].factors.b * share))
        for name, share in shares.items()
    }


def in_units(steer: Steer, own: OwnText) -> tuple[Steer, float]:
    """The steer with its unit of strength measured, and its divergence at strengths 1 and -1, by extrapolation.

    Args:
        steer: the steer, of Fisher length 1 or so.
        own: the model's own text.

    Raises:
        DataError: no scale is found at which the model diverges as wanted.
    """
    # Where maps of length 1 diverge as wanted if they do not act on one another.
    scale, found = math.sqrt(2 * _MEASURED), math.nan
    for _ in range(_ROUNDS):
        found = (own.divergence(steer, scale) + own.divergence(steer, -scale)) / 2
        if abs(found / _MEASURED - 1) < _CLOSE:
            break
        scale *= min(_STEP, max(1 / _STEP, math.sqrt(_MEASURED / max(found, 1e-12)))) if found >= 0 else 1 / _STEP
    else:
        raise DataError(
            f"no unit of strength is found: the model diverges from itself by {found:.3g} nats a token where "
            f"{_MEASURED} are wanted. Let the steer act at fewer sites, or give more texts."
        )
    return steer.scaled(scale * math.sqrt(UNIT / _MEASURED)), found * UNIT / _MEASURED


def unit_settings(maps: Mapping[str, SiteMap], unit: float) -> dict[str, Any]:
    """What a steer's card says of the fit."""
    return {
        "damping_1": DAMPING_1,
        "damping_2": DAMPING_2,
        "divergence": round(unit, 5),
        "sites": {
            name: {
                "rank": each.factors.a.shape[1],
                "rank_share": round(each.rank_share, 4),
                "gain": round(each.gain, 5),
            }
            for name, each in maps.items()
        },
    }
