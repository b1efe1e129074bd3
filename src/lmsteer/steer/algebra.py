"""Steers made of steers: sums, what one has beyond others, and strengths that keep them out of each other's way.

Two steers are as alike as what they do to the model. In nats, with the Kronecker factors C, F of the model's Fisher
matrix, that is an inner product of their matrices, and few numbers for steers of low rank::

    ⟨W₁, W₂⟩ = tr(W₁ᵀ C W₂ F) = Σ (A₁ᵀ C A₂) ∘ (B₁ᵀ F B₂),   W = A Bᵀ

A steer fitted in closed form is W_k = C⁻¹ G_k F⁻¹, with G_k the gradient of the likelihood of its texts. So, to first
order, a mix Σ_j s_j W_j moves the likelihood along dimension k by Σ_j s_j ⟨W_j, W_k⟩.
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
from lmsteer.steer.steer import END_FACTORS, FACTORS, Steer

# What is left of a steer must be more than this share of it, squared: else there is nothing to tell it from the others.
_LEFT = 1e-3


class InnerProduct(Protocol):
    """The Fisher metric of a model, in which its steers are compared (``lmsteer.model.fisher.FisherFactors``)."""

    def inner(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
        """⟨W₁, W₂⟩ of two steers, each as its factors (A, B)."""
        ...


def overlaps(steers: Sequence[Steer], metric: InnerProduct) -> Tensor:
    """⟨W_j, W_k⟩ (K, K) of multiply steers, in nats at strength 1, float64.

    Raises:
        SteerError: a steer of another form.
        WrongBaseError: steers of several bases.
    """
    if len({steer.card.base_fingerprint for steer in steers}) > 1:
        raise WrongBaseError("steers of several base models have nothing in common that could be compared.")
    factors = [_factors(steer) for steer in steers]
    found = [[metric.inner(one, other) for other in factors] for one in factors]
    m = torch.tensor(found, dtype=torch.float64).reshape(len(steers), len(steers))
    return (m + m.T) / 2


def cosines(overlaps: Tensor) -> Tensor:
    """How alike steers are (K, K), from -1 to 1, of their overlaps (K, K)."""
    scale = overlaps.diagonal().clamp(min=1e-30).rsqrt()
    return scale[:, None] * overlaps * scale


def merge(mix: Mix, name: str, label: str = "") -> Steer:
    """A mix as one steer, at strength 1: ``W = Σ_k s_k W_k``, and likewise for the other forms.

    Args:
        mix: steers of one form, with strengths that are one for all rows.
        name: of the new steer.
        label: what its +1 means; the mix itself if not given.

    Raises:
        SteerError: no steers, several forms, or strengths row by row.
    """
    steers, strengths = [*mix.steers.values()], mix.strengths
    forms = {steer.form for steer in steers}
    if len(forms) != 1 or len(strengths) != 1:
        raise SteerError("one steer can be made of steers of one form, with one strength each.")
    told = dict(zip(mix.steers, strengths[0].tolist(), strict=True))
    first = steers[0].card
    card = Card(
        name=name,
        base=first.base,
        base_fingerprint=first.base_fingerprint,
        tokenizer_fingerprint=first.tokenizer_fingerprint,
        label=label or " ".join(f"{key}={strength:g}" for key, strength in told.items()),
        fit={"method": "mix", "of": [_part(mix.steers[key].card, strength) for key, strength in told.items()]},
        head_sample=first.head_sample,
    )
    scaled = [steer.scaled(strength) for steer, strength in zip(steers, told.values(), strict=True)]
    (form,) = forms
    names = [key for key in (*FACTORS[form], *END_FACTORS) if any(key in steer.factors for steer in scaled)]
    columns = {key: [steer.factors[key] for steer in scaled if key in steer.factors] for key in names}
    join = torch.hstack if form == "multiply" else lambda parts: torch.stack(parts).sum(0)
    return Steer(
        form, {key: join(parts) for key, parts in columns.items()}, steers[0].hidden_size, steers[0].vocabulary, card
    )


def orthogonalize(steer: Steer, others: Mapping[str, Steer], metric: InnerProduct) -> Steer:
    """What a steer has beyond others: to first order it moves its own dimension as before, and none of theirs.

    ``W - Σ_j c_j W_j``, orthogonal to every W_j in the Fisher metric, its unit of strength kept. What reads the end of
    texts stays as it is.

    Raises:
        SteerError: a form other than multiply, or nothing that is its own.
    """
    m = overlaps([steer, *others.values()], metric)
    weights = torch.linalg.lstsq(m[1:, 1:], m[1:, 0]).solution
    left = float(1 - weights @ m[1:, 0] / m[0, 0].clamp(min=1e-30))
    if left < _LEFT:
        raise SteerError(f"steer {steer.card.name!r} does nothing that {', '.join(others)} do not.")
    parts = [(1.0, steer), *((-float(w), other) for w, other in zip(weights, others.values(), strict=True))]
    factors = {
        "A": torch.hstack([part.factors["A"] for _, part in parts]),
        "B": torch.hstack([weight / left * part.factors["B"] for weight, part in parts]),
    }
    taken = [_part(other.card, -float(w) / left) for w, other in zip(weights, others.values(), strict=True)]
    card = replace(steer.card, fit={**steer.card.fit, "orthogonal_to": taken}).unmeasured()
    return replace(steer, factors={**steer.factors, **factors}, card=card)


def decorrelate_strengths(mix: Mix, metric: InnerProduct) -> dict[str, float]:
    """Strengths at which each steer of a mix does, to first order, what it would do alone at its own strength.

    Raises:
        SteerError: a form other than multiply, strengths row by row, or steers that cannot be told apart.
    """
    if len(mix.strengths) != 1:
        raise SteerError("strengths that differ from row to row cannot be balanced.")
    m = overlaps([*mix.steers.values()], metric)
    if float(torch.linalg.eigvalsh(cosines(m))[0]) < _LEFT:
        raise SteerError(f"{', '.join(mix.steers)} do the same thing, or nothing: they cannot be balanced.")
    wanted = m.diagonal() * mix.strengths[0].double()
    return dict(zip(mix.steers, torch.linalg.solve(m, wanted).tolist(), strict=True))


def _factors(steer: Steer) -> tuple[Tensor, Tensor]:
    if steer.form != "multiply":
        raise SteerError(f"steer {steer.card.name!r} is of form {steer.form}: only multiply steers can be compared.")
    return steer.factors["A"].double(), steer.factors["B"].double()


def _part(card: Card, strength: float) -> dict[str, object]:
    """What a card tells of a steer that went into another."""
    return {"name": card.name, "strength": strength, "label": card.label, "data": card.data.get("fingerprint", "")}
