"""The components of a steer, and the words at both ends of each.

At strength 1 a steer moves the logits of a hidden state ``h`` by ``h W Eᵀ``. The effect of a part of W is measured on
the model's own text, whose hidden states have second moment C and whose residuals have F (``fisher_factors``). The
squares of the singular values of ::

    C^½ W F^½ = U S Vᵀ                                                                       (d, d)

add up to twice the Kullback-Leibler divergence of the steered model from the unsteered one, to second order and with C
and F taken to be independent. A singular vector ``u`` reads ``h`` by ``a = C^-½ u``, whose readings have
mean square 1, and moves the logits along ``E b``, ``b = Wᵀ C^½ u``: the words where that is highest and lowest are the
two ends of the component. Signs are such that the mean hidden state is read as positive: at positive strengths, the
upper end rises. (LM-Steer, Han et al., ACL 2024, section 5.1, takes the SVD of W itself, whatever its inputs are.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsteer.errors import DataError, SteerError
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import Eigenbasis, FisherFactors
from lmsteer.model.lm import LM
from lmsteer.reading.whole_words import WeightedWord, WholeWords
from lmsteer.steer.mix import Mix
from lmsteer.util.linalg import svd_of_product

# Eigenvalues of C below this share of the largest are rounding; so are components below this share of the total.
_FLOOR = 1e-9


@dataclass(frozen=True)
class Component:
    """One component of a steer.

    Attributes:
        share: its share of the steer's effect, in nats on the model's own text.
        upper: words whose logits rise at positive strengths; their weights are the changes at strength 1.
        lower: words whose logits fall; their weights are the changes at strength 1.
        logits: change of each token's logit at strength 1 (V,).
    """

    share: float
    upper: tuple[WeightedWord, ...]
    lower: tuple[WeightedWord, ...]
    logits: Tensor

    def to_json(self) -> dict[str, Any]:
        """Its share and the weights of its words, as a JSON object."""
        upper, lower = ({word.text: word.weight for word in end} for end in (self.upper, self.lower))
        return {"share": self.share, "upper": upper, "lower": lower}


def components(lm: LM, mix: Mix, *, components: int = 5, words: int = 12) -> list[Component]:
    """The components of a steer, or of the sum of several, by descending share.

    Args:
        lm: the steers' base.
        mix: one steer of any form, or several multiply steers, with one strength each.
        components: the largest number of components; a steer of form add or offset has one.
        words: the largest number of words at each end.

    Raises:
        DataError: fewer than one component or word.
        SteerError: several steers that are not all multiply, strengths row by row, or steers without an effect.
        WrongBaseError: a steer of another base.
    """
    if components < 1 or words < 1:
        raise DataError(f"cannot find {components} components of {words} words; both must be 1 or more.")
    lm.check_base(mix)
    forms = {steer.form for steer in mix.steers.values()}
    if forms == {"multiply"}:
        shares, logits = _of_factors(lm, *mix.factors(), fisher_factors(lm), components)
    elif len(mix.steers) == 1 and len(mix.strengths) == 1:
        shares, logits = torch.ones(1), _of_vector(lm, mix)
    else:
        raise SteerError("components are those of one steer, or of several of form multiply, at one strength each.")
    if not logits.any():
        raise SteerError("the steer has no effect: there are no words to show.")
    whole = WholeWords(lm)
    return [
        Component(float(share), whole.first(line, words), whole.first(-line, words, -1.0), line)
        for share, line in zip(shares, logits, strict=True)
    ]


def _of_factors(lm: LM, a: Tensor, b: Tensor, own: FisherFactors, count: int) -> tuple[Tensor, Tensor]:
    """Shares (N,) and logits (N, V) of the first ``count`` components of W = A Bᵀ, for A, B (d, r)."""
    a, b = a.double(), b.double()
    root_a = _root(own.c_eigen, a)
    u, spectrum, _ = svd_of_product(root_a, _root(own.f_eigen, b))
    # a = C^-½ u reads the mean hidden state m as m C^-½ u.
    values, basis = own.c_eigen
    readings = ((own.mean @ basis) / values.clamp(min=values.max() * _FLOOR).sqrt()) @ (basis.T @ u)
    b = b @ (root_a.T @ (u * torch.where(readings < 0, -1.0, 1.0)))
    shares = spectrum**2 / (spectrum**2).sum()
    count = min(count, int((shares > _FLOOR).sum()))  # components beyond the steer's rank are rounding
    return shares[:count], lm.head.direction(b.T[:count].to(lm.device, torch.float32)).cpu()


def _of_vector(lm: LM, mix: Mix) -> Tensor:
    """Logits (1, V) of a steer that moves all hidden states alike."""
    nothing = torch.zeros(1, lm.hidden_size, device=lm.device)
    moved = lm.head.direction(mix.steer_hidden_states(nothing))
    return mix.steer_logits(moved).cpu()


def _root(eigen: Eigenbasis, factor: Tensor) -> Tensor:
    """``M^½ A`` (d, r) of a symmetric matrix M with this eigenbasis."""
    return eigen.vectors @ (eigen.values.clamp(min=0).sqrt()[:, None] * (eigen.vectors.T @ factor))
