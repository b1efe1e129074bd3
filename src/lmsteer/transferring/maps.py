"""Maps between the spaces of two models, each in closed form.

A steer W₁ = A₁ B₁ᵀ reads hidden states with A₁ and moves words with B₁.

**Reading.** Of states h₁, h₂ of the same texts, ridge regression gives the target's stand-in for a reading ``h₁ a``::

    A₂ = (E[h₂ h₂ᵀ] + λ I)⁻¹ E[h₂ h₁ᵀ] A₁                                                     (d₂, r)

**Writing.** B is a natural gradient: ``B₁ = F₁⁻¹ g₁``, and what is common to both models is neither B nor g, but how
often each word is wanted more or less, a number c_v a word, with ``g = Σ_v c_v e_v``. Of all c that explain g₁ the
smallest, in units of each word's weight q, is ``c = q E₁ (E₁ᵀ q E₁)⁻¹ g₁``. In the target's words, by its own prices::

    B₂ = (F₂ + λ₂ I)⁻¹ E₂ᵀ q E₁ (E₁ᵀ q E₁ + λ I)⁻¹ (F₁ + λ₂ I) B₁                              (d₂, r)

Two maps of the literature stand beside it: they carry B₁ itself, by the regression (``ridge``) or the rotation
(``procrustes``; Schönemann, 1966) that brings one set of embeddings nearest to the other.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lmsteer.model.fisher import FisherFactors
from lmsteer.transferring.alignment import AlignedStates
from lmsteer.transferring.shared_vocabulary import SharedVocabulary
from lmsteer.util.linalg import damped, ridge

WordMap = Literal["gradient", "ridge", "procrustes"]
WORD_MAPS: tuple[str, ...] = get_args(WordMap)
# In units of the mean diagonal: of states, of words, and of prices as in a fit (docs/log.md, "Transfer").
_OF_STATES, _OF_WORDS, _OF_PRICES = 0.03, 0.1, 0.03
_OF_MEAN = 0.001


def map_reader(pairs: AlignedStates, a: Tensor) -> Tensor:
    """A₂ (d₂, r) that reads the target's states as A₁ (d₁, r) reads the source's."""
    return ridge(pairs.second_moment, pairs.product @ a, _OF_STATES)


def map_end_reader(pairs: AlignedStates, a: Tensor) -> Tensor:
    """The same for what reads the ends of texts, where its readings keep their mean and their spread.

    A regression's readings spread less than what they stand for, and a text's end is unlike other places. The mean is
    set right along the direction that reads 1 at the mean end and varies least.
    """
    read = map_reader(pairs, a)
    of_source, of_target = pairs.source_ends.double() @ a, pairs.target_ends.double() @ read
    read = read * (of_source.std(0) / of_target.std(0).clamp(min=1e-30))
    h = pairs.target_ends.double()
    mean = h.mean(0)
    constant = ridge(h.T @ h / len(h), mean, _OF_MEAN)
    missing = of_source.mean(0) - mean @ read
    return read + (constant / (constant @ mean))[:, None] * missing


def map_writer(
    how: WordMap, words: SharedVocabulary, source: FisherFactors, target: FisherFactors, b: Tensor
) -> Tensor:
    """B₂ (d₂, r) that moves the target's words as B₁ (d₁, r) moves the source's."""
    e1, e2 = words.source, words.target
    weighted = words.weights[:, None] * e1
    if how == "gradient":
        wanted = weighted @ ridge(e1.T @ weighted, damped(source.f, _OF_PRICES) @ b, _OF_WORDS)
        return ridge(target.f, e2.T @ wanted, _OF_PRICES)
    if how == "ridge":
        return ridge(e2.T @ (words.weights[:, None] * e2), e2.T @ (weighted @ b), _OF_WORDS)
    u, spectrum, vt = torch.linalg.svd(e2.T @ weighted, full_matrices=False)
    return spectrum.sum() / (words.weights @ (e2**2).sum(1)) * u @ (vt @ b)
