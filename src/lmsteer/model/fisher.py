"""The Kronecker factors of a language model's Fisher matrix: what a change of the hidden state costs the model.

The Fisher matrix of a language model is an expectation over the model's own text. Its Kronecker factors
(K-FAC, Martens and Grosse, 2015; there A and G) are::

    C = E[h hᵀ],  F = E[r rᵀ]        (d, d)

with hidden states h and residuals r of tokens that the model itself drew. They must not be measured on labelled texts:
a steer costs perplexity where the model writes, and a corpus in another style never visits many of the directions that
the model's own text uses, so steps along them would look free. The factors do not depend on the labelled texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.util.files import replace_file
from lmsteer.util.linalg import Factorisation, chain_product, factorise_to_share


class Eigenbasis(NamedTuple):
    """Eigenvalues (d,), ascending, and eigenvectors (d, d) of a symmetric matrix, a column each."""

    values: Tensor
    vectors: Tensor

    def to(self, device: torch.device) -> Eigenbasis:
        """The same on a device."""
        return Eigenbasis(self.values.to(device), self.vectors.to(device))


def eigenbasis(matrix: Tensor) -> Eigenbasis:
    """The eigenbasis of a symmetric matrix (d, d)."""
    return Eigenbasis(*torch.linalg.eigh(matrix))


@dataclass(frozen=True)
class FisherFactors:
    """The Kronecker factors of a model's Fisher matrix on its own text, float64 on one device.

    Attributes:
        c: C (d, d), the second moment of hidden states.
        f: F (d, d), the second moment of residuals.
        mean: the mean hidden state (d,).
        c_unit: the unit of the damping of C; the mean of its diagonal if None.
        bases: the eigenvalues (d,) and eigenvectors (d, d) of C and of F, where they are known already.
    """

    c: Tensor
    f: Tensor
    mean: Tensor
    c_unit: float | None = None
    bases: tuple[Eigenbasis, Eigenbasis] | None = None

    def with_eigenbases(self) -> FisherFactors:
        """The same factors with their eigenbases, which take minutes for a wide model."""
        return replace(self, bases=(self.c_eigen, self.f_eigen))

    def to(self, device: torch.device) -> FisherFactors:
        """The same factors, with their eigenbases if they are known, on a device."""
        bases = self.bases and (self.bases[0].to(device), self.bases[1].to(device))
        return FisherFactors(self.c.to(device), self.f.to(device), self.mean.to(device), self.c_unit, bases)

    def inner(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
        """The Fisher inner product of two steers: ⟨W₁, W₂⟩ = tr(W₁ᵀ C W₂ F), in nats at strength 1 (times two).

        Args:
            one: W₁ = A₁ B₁ᵀ as (A₁, B₁), each (d, r₁), float64.
            other: W₂ likewise.
        """
        (a1, b1), (a2, b2) = one, other
        return float(((a1.T @ self.c @ a2) * (b1.T @ self.f @ b2)).sum())

    @cached_property
    def c_eigen(self) -> Eigenbasis:
        """Eigenvalues (d,) and eigenvectors (d, d) of C, computed once."""
        return self.bases[0] if self.bases else eigenbasis(self.c)

    @cached_property
    def f_eigen(self) -> Eigenbasis:
        """Eigenvalues (d,) and eigenvectors (d, d) of F, computed once."""
        return self.bases[1] if self.bases else eigenbasis(self.f)

    def roots(self, damping_1: float, damping_2: float) -> tuple[Tensor, Tensor]:
        """The square roots of the eigenvalues of C + λ₁ I and of F + λ₂ I, each (d,).

        Args:
            damping_1: λ₁, in units of the mean diagonal of C, or of ``c_unit``.
            damping_2: λ₂, in units of the mean diagonal of F.
        """
        c, f = self.c_eigen[0], self.f_eigen[0]
        unit = float(c.mean()) if self.c_unit is None else self.c_unit
        return (c.clamp(min=0) + damping_1 * unit).sqrt(), (f.clamp(min=0) + damping_2 * f.mean()).sqrt()

    def rotated(self, w: Tensor) -> Tensor:
        """A matrix (d, d) in the eigenbases of C (its rows) and F (its columns)."""
        return chain_product(self.c_eigen.vectors.T, w, self.f_eigen.vectors)

    def factorised(
        self, whitened: Tensor, damping_1: float, damping_2: float, rank: int | None = None
    ) -> Factorisation:
        """A, B (d, r), the best W ≈ A Bᵀ of rank r in the damped Fisher metric, and the share of the spectrum.

        Args:
            whitened: (C + λ₁)^½ W (F + λ₂)^½ (d, d) in the eigenbases.
            damping_1: λ₁.
            damping_2: λ₂.
            rank: r; by default the least that holds 95 % of the spectrum.
        """
        root_c, root_f = self.roots(damping_1, damping_2)
        a, b, share = factorise_to_share(whitened, rank)
        return Factorisation(self.c_eigen[1] @ (a / root_c[:, None]), self.f_eigen[1] @ (b / root_f[:, None]), share)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """The factors saved in a file, or None if there are none that can be read."""
        try:
            tensors = load_file(file)
            unit = float(tensors["c_unit"]) if "c_unit" in tensors else None
            found = cls(tensors["c"], tensors["f"], tensors["mean"], unit)
            if "c_vectors" not in tensors:
                return found
            c_basis, f_basis = (Eigenbasis(tensors[f"{name}_values"], tensors[f"{name}_vectors"]) for name in "cf")
            return replace(found, bases=(c_basis, f_basis))
        except (OSError, SafetensorError, KeyError):
            return None

    def save(self, file: Path) -> None:
        """Save the factors and their eigenbases to a file; an older file stays until the new one is complete.

        Raises:
            OSError: the disk cannot be written.
            SafetensorError: likewise.
        """
        tensors = {"c": self.c.contiguous(), "f": self.f.contiguous(), "mean": self.mean}
        for name, basis in (("c", self.c_eigen), ("f", self.f_eigen)):
            tensors |= {f"{name}_values": basis.values, f"{name}_vectors": basis.vectors.contiguous()}
        if self.c_unit is not None:
            tensors["c_unit"] = torch.tensor(self.c_unit, dtype=torch.float64)
        with replace_file(file) as aside:
            save_file(tensors, aside)
