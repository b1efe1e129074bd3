"""Maps between the spaces of two models, each in closed form.

A steer ``W₁ = A₁ B₁ᵀ`` has two parts: its reader A₁ reads hidden states, its writer B₁ moves the logits of words.

**Reader.** On states h₁, h₂ of the same texts, ridge regression gives the target's estimate of a reading ``h₁ a``::

    A₂ = (E[h₂ h₂ᵀ] + λ I)⁻¹ E[h₂ h₁ᵀ] A₁                                                     (d₂, r)

**Writer.** B is a natural gradient: ``B₁ = F₁⁻¹ g₁``. What both models have in common is neither B nor g, but how much
more or less each word is wanted: a number c_v for each word, with ``g = Σ_v c_v e_v``. The smallest c that explains g₁,
in units of each word's weight q, is ``c = q E₁ (E₁ᵀ q E₁)⁻¹ g₁``. With the target's words and Fisher matrix::

    B₂ = (F₂ + λ₂ I)⁻¹ E₂ᵀ q E₁ (E₁ᵀ q E₁ + λ I)⁻¹ (F₁ + λ₂ I) B₁                              (d₂, r)

Two maps of the literature are there for comparison. They map B₁ itself, by the regression (``ridge``) or the rotation
(``procrustes``; Schönemann, 1966) that brings one set of embeddings closest to the other.
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
# Dampings, relative to the mean diagonal: of states, words, Fisher factors as in a fit (docs/log.md, "Transfer"), and
# of the direction that is constant over the ends of texts.
_DAMPING_STATES, _DAMPING_WORDS, _DAMPING_FISHER, _DAMPING_CONSTANT = 0.03, 0.1, 0.03, 0.001


def map_reader(states: AlignedStates, a: Tensor) -> Tensor:
    """A₂ (d₂, r), which reads the target's states as A₁ (d₁, r) reads the source's."""
    return ridge(states.second_moment, states.product @ a, _DAMPING_STATES)


def map_eos_reader(states: AlignedStates, a: Tensor) -> Tensor:
    """The same for readers of the ends of texts; the mean and the spread of their readings there are preserved.

    The readings of a regression vary less than what they estimate, and the end of a text is unlike other places. The
    mean is corrected along the direction that reads 1 at the mean end and varies least over the ends.
    """
    reader = map_reader(states, a)
    of_source, of_target = states.source_ends.double() @ a, states.target_ends.double() @ reader
    reader = reader * (of_source.std(0) / of_target.std(0).clamp(min=1e-30))
    h = states.target_ends.double()
    mean = h.mean(0)
    constant = ridge(h.T @ h / len(h), mean, _DAMPING_CONSTANT)
    missing = of_source.mean(0) - mean @ reader
    return reader + (constant / (constant @ mean))[:, None] * missing


def map_writer(
    word_map: WordMap, words: SharedVocabulary, source: FisherFactors, target: FisherFactors, b: Tensor
) -> Tensor:
    """B₂ (d₂, r), which moves the target's words as B₁ (d₁, r) moves the source's."""
    if word_map == "gradient":
        gradient = damped(source.f, _DAMPING_FISHER) @ b
        wanted = ridge(words.second_moment(words.source), gradient, _DAMPING_WORDS)  # of each word: q e₁ · this
        return ridge(target.f, words.cross(wanted), _DAMPING_FISHER)
    if word_map == "ridge":
        return ridge(words.second_moment(words.target), words.cross(b), _DAMPING_WORDS)
    u, spectrum, vt = torch.linalg.svd(words.cross(), full_matrices=False)
    return spectrum.sum() / words.second_moment(words.target).trace() * u @ (vt @ b)
