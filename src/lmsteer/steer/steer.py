"""Steer: the factors of one style dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.sites import HEAD, is_site_name
from lmsteer.util.linalg import factorise_product

Form = Literal["multiply", "add", "offset"]
FORMS: tuple[Form, ...] = get_args(Form)
FACTORS: Mapping[Form, tuple[str, ...]] = {"multiply": ("A", "B"), "add": ("a",), "offset": ("o",)}
# The eos component that a multiply steer may have besides.
EOS_FACTORS = ("A_eos", "B_eos")
# Tensors by the names above, and by ``SITE.A`` and ``SITE.B`` for sites inside the model.
Factors = Mapping[str, Tensor]


class LowRank(NamedTuple):
    """The map A Bᵀ (n, m) of a site.

    Attributes:
        a: A (n, r).
        b: B (m, r).
    """

    a: Tensor
    b: Tensor


def factors_of(maps: Mapping[str, LowRank], hidden_size: int) -> dict[str, Tensor]:
    """The factors of a multiply steer with a map at each of some sites; without one the head's have no columns.

    Both factors of a map get the same length, so that neither is out of float16's range.

    Args:
        maps: the maps, by the names of their sites.
        hidden_size: d, of the model.
    """
    empty = LowRank(*(torch.zeros(hidden_size, 0) for _ in range(2)))
    factors = dict[str, Tensor]()
    for name, (a, b) in {HEAD: empty, **maps}.items():
        lengths = float(a.norm()), float(b.norm())
        size = math.sqrt(lengths[1] / lengths[0]) if all(lengths) else 1.0
        before = "" if name == HEAD else f"{name}."
        factors |= {f"{before}A": (a * size).float().contiguous(), f"{before}B": (b / size).float().contiguous()}
    return factors


@dataclass(frozen=True)
class Steer:
    """One style dimension of one base model.

    A multiply steer may have an **eos component**, ``A_eos`` and ``B_eos`` (d, 1; (d, K) in a sum of K steers). It acts
    on the end-of-text token alone, and only when a text is read: there it weighs the whole text (``with_eos``). It is
    left out when the model generates, where it would only cut texts short or never let them end.

    A multiply steer may also act at **sites inside the model** (``lmsteer.steer.sites``), each with a map of its own:
    ``layers.15.A`` (n, r) and ``layers.15.B`` (m, r). One strength scales all of its maps. Where it leaves the head
    alone, A and B have no columns.

    Attributes:
        form: ``multiply`` (factors A, B (d, r), W = A Bᵀ), ``add`` (a (d,)) or ``offset`` (o (V,)).
        factors: float32 tensors by those names.
        hidden_size: d.
        vocabulary: V.
        card: where the steer comes from and what it means.

    Raises:
        SteerError: the form is unknown, or factors have other names or shapes, or values that are not finite.
    """

    form: Form
    factors: Factors
    hidden_size: int
    vocabulary: int
    card: Card

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SteerError(f"unknown form {self.form!r}: a steer is one of {', '.join(FORMS)}.")
        inner = {f"{site}.{end}" for site in self.sites for end in ("A", "B")}
        others = set(self.factors) - set(EOS_FACTORS) - inner
        if others != set(FACTORS[self.form]) or not inner <= set(self.factors) or self._has_parts_of_another_form():
            raise SteerError(f"a steer of form {self.form} has factors {FACTORS[self.form]}, not {set(self.factors)}.")
        for name, factor in self.factors.items():
            self._check_factor(name, factor, is_inner=name in inner)
        if self.form == "multiply":
            for a, b in (FACTORS[self.form], EOS_FACTORS):
                if a in self.factors and self.factors[a].shape != self.factors[b].shape:
                    shapes = f"{tuple(self.factors[a].shape)} and {tuple(self.factors[b].shape)}"
                    raise SteerError(f"factors {a} and {b} have shapes {shapes}; they must be alike.")
            for site, (inner_a, inner_b) in self.inner.items():
                if inner_a.shape[1] != inner_b.shape[1]:
                    ranks = f"{inner_a.shape[1]} and {inner_b.shape[1]}"
                    raise SteerError(f"the factors of {site} have ranks {ranks}; they must be alike.")

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """The sites inside the model where it acts; none for a steer of the head alone."""
        owners = dict.fromkeys(name.rpartition(".")[0] for name in self.factors)
        return tuple(owner for owner in owners if is_site_name(owner))

    @cached_property
    def inner(self) -> dict[str, LowRank]:
        """The map of each of those sites."""
        return {site: LowRank(self.factors[f"{site}.A"], self.factors[f"{site}.B"]) for site in self.sites}

    def at_sites(self, sites: Sequence[str]) -> Steer:
        """The part of the steer that acts at some of its sites; ``head`` is one of them."""
        head = {key: factor for key, factor in self.factors.items() if key.rpartition(".")[0] not in self.sites}
        if HEAD not in sites:
            head = {key: factor[:, :0] for key, factor in head.items()}
        kept = [f"{site}.{end}" for site in self.sites if site in sites for end in ("A", "B")]
        return replace(self, factors={**head, **{key: self.factors[key] for key in kept}})

    def check_head_alone(self, what: str) -> None:
        """Refuse a steer that acts inside the model, too.

        Args:
            what: what needs a steer of the head alone, as the beginning of a sentence.

        Raises:
            SteerError: it does.
        """
        if self.sites:
            raise SteerError(
                f"{what} needs a steer that acts on the head alone; {self.card.title} acts at {', '.join(self.sites)}."
            )

    @property
    def rank(self) -> int:
        """The rank r of a multiply steer at the head, without its eos component; 1 for the other forms."""
        return self.factors["A"].shape[1] if self.form == "multiply" else 1

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of its map at each site where it has one; ``head`` is one of them."""
        inner = {site: factors.a.shape[1] for site, factors in self.inner.items()}
        return {HEAD: self.rank, **inner} if self.rank else inner

    @property
    def size(self) -> str:
        """Its ranks in words: "rank 12", or "rank 12 at layers.15"."""
        if not self.sites:
            return f"rank {self.rank}"
        return "rank " + ", ".join(f"{rank} at {site}" for site, rank in self.ranks.items())

    @property
    def parameters(self) -> int:
        """The number of values in all factors."""
        return sum(factor.numel() for factor in self.factors.values())

    def with_eos(self) -> Steer:
        """The steer as it acts on the end-of-text token of a text that is read: the eos component joins A and B."""
        if not set(EOS_FACTORS) <= set(self.factors):
            return self
        a, b = (torch.cat([self.factors[name], self.factors[f"{name}_eos"]], 1) for name in ("A", "B"))
        return replace(self, factors={"A": a, "B": b})

    def matrix_factors(self, what: str = "a single matrix W") -> tuple[Tensor, Tensor]:
        """A and B (d, r) of W = A Bᵀ, without the eos component.

        Args:
            what: what needs them, for the error message.

        Raises:
            SteerError: the steer has another form than multiply, or acts inside the model, too.
        """
        self.check_head_alone(what)
        if self.form != "multiply":
            raise SteerError(f"a steer of form {self.form} has no matrix.")
        return self.factors["A"], self.factors["B"]

    def matrix(self) -> Tensor:
        """W = A Bᵀ (d, d) of a multiply steer, without its eos component.

        Raises:
            SteerError: the steer has another form, or acts inside the model, too.
        """
        a, b = self.matrix_factors()
        return a @ b.T

    def scaled(self, scale: float) -> Steer:
        """The steer with a unit of strength ``scale`` times as large; its card loses the metrics."""
        scaled = {
            name: self.factors[name] * scale
            for name in (FACTORS[self.form][-1], EOS_FACTORS[-1], *(f"{site}.B" for site in self.sites))
            if name in self.factors
        }
        return replace(self, factors={**self.factors, **scaled}, card=self.card.unmeasured())

    def truncated(self, rank: int) -> Steer:
        """The nearest multiply steer of a lower rank (Eckart-Young, by the SVD of W); its card loses the metrics.

        Raises:
            SteerError: the rank is out of range, the steer has another form, or it acts inside the model, too.
        """
        a, b = self.matrix_factors("another rank")
        if not 1 <= rank <= self.hidden_size:
            raise SteerError(f"the rank must be from 1 to the hidden size, {self.hidden_size}, not {rank}.")
        a, b, _ = factorise_product(a, b, rank)
        return replace(self, factors={**self.factors, "A": a, "B": b}, card=self.card.unmeasured())

    def _has_parts_of_another_form(self) -> bool:
        """Whether there is half an eos component, or an eos component or a site of a form that has none."""
        present = set(EOS_FACTORS) & set(self.factors)
        return len(present) == 1 or (self.form != "multiply" and bool(present or self.sites))

    def _check_factor(self, name: str, factor: Tensor, *, is_inner: bool) -> None:
        length = self.vocabulary if self.form == "offset" else self.hidden_size
        dims = 2 if self.form == "multiply" else 1
        if factor.dim() != dims or (factor.shape[0] != length and not is_inner):
            raise SteerError(f"factor {name} has shape {tuple(factor.shape)}; its first dimension must be {length}.")
        if factor.dtype != torch.float32:
            raise SteerError(f"factor {name} has the type {factor.dtype}; it must be torch.float32.")
        if not torch.isfinite(factor).all():
            raise SteerError(f"factor {name} holds values that are not finite numbers.")
