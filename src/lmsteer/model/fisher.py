"""Curvature: what a change of the hidden state costs the model, measured on text of its own.

The Fisher matrix of a language model is an expectation over the model's own text. Its Kronecker factors there are::

    C = E[h hᵀ],  F = E[r rᵀ]        (d, d)

with hidden states h and residuals r of tokens that the model itself drew. Labelled texts are the wrong place to
measure them: a steer pays its price in perplexity where the model writes, and a corpus of another manner leaves
directions unpriced that the model's own text is full of. The factors do not depend on the labelled texts, so a
model's are measured once and kept in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.generation.generate import own_text
from lmsteer.model.lm import LM
from lmsteer.util.disk_cache import cache_dir
from lmsteer.util.files import replace_file

# 192 texts of 32 tokens: ten rows for each of the 576 dimensions of the default model, half a minute on two cores.
_TEXTS, _TOKENS = 192, 32
_SEED = 0
# Raised when any of this changes, so that an older cache is not read.
_FORMAT = 2


@dataclass(frozen=True)
class Curvature:
    """The Kronecker factors of a model's Fisher matrix on its own text, float64 on the CPU.

    Attributes:
        c: C (d, d), of hidden states.
        f: F (d, d), of residuals.
        mean: of hidden states (d,).
    """

    c: Tensor
    f: Tensor
    mean: Tensor

    def inner(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
        """⟨W₁, W₂⟩ = tr(W₁ᵀ C W₂ F) of W = A Bᵀ, each given as A, B (d, r), float64: nats at strength 1, twice."""
        (a1, b1), (a2, b2) = one, other
        return float(((a1.T @ self.c @ a2) * (b1.T @ self.f @ b2)).sum())

    @cached_property
    def c_eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) and eigenvectors (d, d) of C; kept, as every look at the held-out texts takes them."""
        values, vectors = torch.linalg.eigh(self.c)
        return values, vectors

    @cached_property
    def f_eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) and eigenvectors (d, d) of F; kept likewise."""
        values, vectors = torch.linalg.eigh(self.f)
        return values, vectors


def curvature(lm: LM) -> Curvature:
    """Measure a model's curvature, or read it from the cache."""
    file = cache_dir() / f"curvature-{_FORMAT}-{lm.fingerprint}-{lm.tokenizer_fingerprint[:8]}.safetensors"
    found = _read(file)
    if found is None:
        found = _measure(lm)
        _keep(found, file)
    return found


def _measure(lm: LM) -> Curvature:
    h, targets = own_text(lm, _TEXTS, _TOKENS, _SEED)
    r, _ = lm.head.residuals(h, targets)
    h, r = h.cpu().double(), r.cpu().double()
    return Curvature(h.T @ h / len(h), r.T @ r / len(r), h.mean(0))


def _read(file: Path) -> Curvature | None:
    try:
        tensors = load_file(file)
        return Curvature(tensors["c"], tensors["f"], tensors["mean"])
    except (OSError, SafetensorError, KeyError):
        return None


def _keep(found: Curvature, file: Path) -> None:
    try:
        with replace_file(file) as aside:
            save_file({"c": found.c.contiguous(), "f": found.f.contiguous(), "mean": found.mean}, aside)
    except (OSError, SafetensorError):
        return  # without a cache the next fit measures again
