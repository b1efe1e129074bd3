"""Steer: the factors of one style dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.util.linalg import factorise

Form = Literal["multiply", "add", "offset"]
FORMS: tuple[str, ...] = get_args(Form)
FACTORS = {"multiply": ("A", "B"), "add": ("a",), "offset": ("o",)}
# What a multiply steer may have beside: its end part, for reading.
END_FACTORS = ("A_end", "B_end")


@dataclass(frozen=True)
class Steer:
    """One style dimension of one base model.

    Attributes:
        form: ``multiply`` (factors A, B (d, r), W = A Bᵀ), ``add`` (a (d,)) or ``offset`` (o (V,)). A multiply
            steer may also have an **end part** A_end, B_end (d, 1; (d, K) of a sum of K): where a text ends, it weighs
            the whole of it. It serves reading (``reader()``) and is left out when the model writes, where it would
            only cut texts short or never let them end.
        factors: float32 tensors by those names.
        hidden_size: d.
        vocabulary: V.
        card: its provenance.

    Raises:
        SteerError: unknown form, or factors of wrong names, shapes or with values that are not finite.
    """

    form: Form
    factors: Mapping[str, Tensor]
    hidden_size: int
    vocabulary: int
    card: Card

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SteerError(f"unknown form {self.form!r}: a steer is one of {', '.join(FORMS)}.")
        if set(self.factors) - set(END_FACTORS) != set(FACTORS[self.form]) or self._has_half_an_end():
            raise SteerError(f"a steer of form {self.form} has factors {FACTORS[self.form]}, not {set(self.factors)}.")
        for name, factor in self.factors.items():
            self._check_factor(name, factor)
        if self.form == "multiply":
            for a, b in (FACTORS[self.form], END_FACTORS):
                if a in self.factors and self.factors[a].shape != self.factors[b].shape:
                    shapes = f"{tuple(self.factors[a].shape)} and {tuple(self.factors[b].shape)}"
                    raise SteerError(f"factors {a} and {b} have shapes {shapes}; they must be alike.")

    @property
    def rank(self) -> int:
        """r of a multiply steer; 1 for the others."""
        return self.factors["A"].shape[1] if self.form == "multiply" else 1

    @property
    def parameters(self) -> int:
        """Numbers stored."""
        return sum(factor.numel() for factor in self.factors.values())

    def reader(self) -> Steer:
        """The steer as it acts where a text that is read ends: its end part, if it has one, taken into A and B."""
        if not set(END_FACTORS) <= set(self.factors):
            return self
        a, b = (torch.cat([self.factors[n], self.factors[f"{n}_end"]], 1) for n in ("A", "B"))
        return replace(self, factors={"A": a, "B": b})

    def matrix(self) -> Tensor:
        """W = A Bᵀ (d, d) of a multiply steer.

        Raises:
            SteerError: the steer has another form.
        """
        if self.form != "multiply":
            raise SteerError(f"a steer of form {self.form} has no matrix.")
        return self.factors["A"] @ self.factors["B"].T

    def scaled(self, scale: float) -> Steer:
        """The same steer with its unit of strength ``scale`` times as large; what was measured of it is left out."""
        moved = {
            name: self.factors[name] * scale
            for name in (FACTORS[self.form][-1], END_FACTORS[-1])
            if name in self.factors
        }
        return replace(self, factors={**self.factors, **moved}, card=self.card.unmeasured())

    def truncated(self, rank: int) -> Steer:
        """The nearest multiply steer of a smaller rank (Eckart-Young, on the SVD of W), of which nothing is measured.

        Raises:
            SteerError: a rank out of range, or a steer of another form.
        """
        if not 1 <= rank <= self.hidden_size:
            raise SteerError(f"the rank must be from 1 to the hidden size, {self.hidden_size}, not {rank}.")
        a, b, _ = factorise(self.matrix(), rank)
        return replace(self, factors={**self.factors, "A": a, "B": b}, card=self.card.unmeasured())

    def _has_half_an_end(self) -> bool:
        given = set(END_FACTORS) & set(self.factors)
        return bool(given) and (len(given) < 2 or self.form != "multiply")

    def _check_factor(self, name: str, factor: Tensor) -> None:
        length = self.vocabulary if self.form == "offset" else self.hidden_size
        dims = 2 if self.form == "multiply" else 1
        if factor.dim() != dims or factor.shape[0] != length:
            raise SteerError(f"factor {name} has shape {tuple(factor.shape)}; its first dimension must be {length}.")
        if not torch.isfinite(factor).all():
            raise SteerError(f"factor {name} holds values that are not finite numbers.")
