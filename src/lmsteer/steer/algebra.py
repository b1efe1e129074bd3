"""The algebra of steers: sums, orthogonal parts, and strengths that undo how steers overlap.

Two steers are alike if they do the same to the model. The measure is an inner product of their matrices, in nats, with
the Kronecker factors C, F of the model's Fisher matrix. For steers of low rank it needs few operations::

    ⟨W₁, W₂⟩ = tr(W₁ᵀ C W₂ F) = Σ (A₁ᵀ C A₂) ∘ (B₁ᵀ F B₂),   W = A Bᵀ

A steer fitted in closed form is W_k = C⁻¹ G_k F⁻¹, where G_k is the gradient of the log-likelihood of its texts. So, to
first order, a mix Σ_j s_j W_j changes the log-likelihood along dimension k by Σ_j s_j ⟨W_j, W_k⟩.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer

# The squared share of a steer that must be left when others are taken out: below it, the rest is rounding.
_LEAST_SHARE = 1e-3


class InnerProduct(Protocol):
    """The Fisher metric of a model, in which its steers are compared (``lmsteer.model.fisher.FisherFactors``)."""

    def inner(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
        """⟨W₁, W₂⟩ of two steers, each as its factors (A, B)."""
        ...


def overlaps(steers: Sequence[Steer], metric: InnerProduct) -> Tensor:
    """The inner products ⟨W_j, W_k⟩ (K, K) of multiply steers, in nats at strength 1, float64.

    Raises:
        SteerError: a steer has another form.
        WrongBaseError: the steers belong to several base models.
    """
    if not all(steers[0].card.shares_base(steer.card) for steer in steers):
        raise WrongBaseError("steers of several base models have nothing in common that could be compared.")
    factors = [_factors(steer) for steer in steers]
    products = [[metric.inner(one, other) for other in factors] for one in factors]
    matrix = torch.tensor(products, dtype=torch.float64).reshape(len(steers), len(steers))
    return (matrix + matrix.T) / 2


def cosines(overlaps: Tensor) -> Tensor:
    """The cosines (K, K), from -1 to 1, of steers with these overlaps (K, K)."""
    scale = overlaps.diagonal().clamp(min=1e-30).rsqrt()
    return scale[:, None] * overlaps * scale


def merge(mix: Mix, name: str, label: str = "") -> Steer:
    """Merge a mix into one steer, whose strength 1 is the mix: ``W = Σ_k s_k W_k``, and likewise for the other forms.

    Args:
        mix: steers of one form, each with one strength for all rows.
        name: the name of the new steer.
        label: what strength +1 means, in words; the steers and strengths of the mix by default.

    Raises:
        SteerError: the mix is empty, has several forms, or strengths row by row.
    """
    steers, strengths = [*mix.steers.values()], mix.strengths
    forms = {steer.form for steer in steers}
    if len(forms) != 1 or len(strengths) != 1:
        raise SteerError("only steers of one form, with one strength each, can be merged into one steer.")
    by_name = dict(zip(mix.steers, strengths[0].tolist(), strict=True))
    first = steers[0].card
    card = Card(
        name=name,
        base=first.base,
        base_fingerprint=first.base_fingerprint,
        tokenizer_fingerprint=first.tokenizer_fingerprint,
        label=label or " ".join(f"{key}={strength:g}" for key, strength in by_name.items()),
        fit={"method": "mix", "of": [_part(mix.steers[key].card, strength) for key, strength in by_name.items()]},
        head_sample=first.head_sample,
    )
    scaled = [steer.scaled(strength) for steer, strength in zip(steers, by_name.values(), strict=True)]
    (form,) = forms
    names = dict.fromkeys(key for steer in scaled for key in steer.factors)
    columns = {key: [steer.factors[key] for steer in scaled if key in steer.factors] for key in names}
    join = torch.hstack if form == "multiply" else lambda parts: torch.stack(parts).sum(0)
    return Steer(
        form, {key: join(parts) for key, parts in columns.items()}, steers[0].hidden_size, steers[0].vocabulary, card
    )


def orthogonalize(steer: Steer, others: Mapping[str, Steer], metric: InnerProduct) -> Steer:
    """The part of a steer that is orthogonal to others: to first order it acts on its own dimension only, as before.

    That is ``W - Σ_j c_j W_j``, orthogonal to every W_j in the Fisher metric, scaled so that the effect of strength 1
    on its own dimension stays. The eos component stays as it is.

    Raises:
        SteerError: a steer has a form other than multiply, or the others do all that this one does.
    """
    m = overlaps([steer, *others.values()], metric)
    weights = torch.linalg.lstsq(m[1:, 1:], m[1:, 0]).solution
    share = float(1 - weights @ m[1:, 0] / m[0, 0].clamp(min=1e-30))
    if share < _LEAST_SHARE:
        raise SteerError(f"steer {steer.card.name!r} does nothing that {', '.join(others)} do not do.")
    parts = [(1.0, steer), *((-float(w), other) for w, other in zip(weights, others.values(), strict=True))]
    factors = {
        "A": torch.hstack([part.factors["A"] for _, part in parts]),
        "B": torch.hstack([weight / share * part.factors["B"] for weight, part in parts]),
    }
    removed = [_part(other.card, -float(w) / share) for w, other in zip(weights, others.values(), strict=True)]
    card = replace(steer.card, fit={**steer.card.fit, "orthogonal_to": removed}).unmeasured()
    return replace(steer, factors={**steer.factors, **factors}, card=card)


def decorrelate_strengths(mix: Mix, metric: InnerProduct) -> dict[str, float]:
    """Strengths at which each dimension of a mix changes, to first order, as if its own steer acted alone.

    Raises:
        SteerError: a steer has a form other than multiply, strengths differ from row to row, or steers are so alike
            that no strengths separate them.
    """
    if len(mix.strengths) != 1:
        raise SteerError("strengths that differ from row to row cannot be decorrelated.")
    m = overlaps([*mix.steers.values()], metric)
    if float(torch.linalg.eigvalsh(cosines(m))[0]) < _LEAST_SHARE:
        raise SteerError(f"{', '.join(mix.steers)} do the same thing, or nothing: no strengths can decorrelate them.")
    wanted = m.diagonal() * mix.strengths[0].double()
    return dict(zip(mix.steers, torch.linalg.solve(m, wanted).tolist(), strict=True))


def _factors(steer: Steer) -> tuple[Tensor, Tensor]:
    steer.check_head_alone("the Fisher metric of the head")
    if steer.form != "multiply":
        raise SteerError(f"steer {steer.card.name!r} has form {steer.form}: only multiply steers can be compared.")
    return steer.factors["A"].double(), steer.factors["B"].double()


def _part(card: Card, strength: float) -> dict[str, object]:
    """The record of a steer in the card of one that was made from it."""
    origin = {"origin": card.origin} if card.origin else {}
    data = card.data.get("fingerprint", "")
    return {"name": card.name, "strength": strength, "label": card.label, "data": data, **origin}
