"""The shared vocabulary of two models: tokens with the same text, and how often each model expects them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.transferring.alignment import AlignedStates
from lmsteer.util.linalg import add_product, in_float64

# Added to the probability of each word, so that words that neither model expects have some weight.
_LEAST_PROBABILITY = 1e-9


# Words that are converted to float64 at a time: all words of two wide models would take tens of gigabytes.
_WORDS = 4096


@dataclass(frozen=True)
class WordEmbeddings:
    """The output embeddings of N words in one model, centred, of which some are in float64 at a time.

    Attributes:
        weight: E (V, d), in the model's dtype and on its device.
        tokens: the ids of the words (N,).
        mean: what is subtracted from each (d,), float64 on the CPU.
    """

    weight: Tensor
    tokens: Tensor
    mean: Tensor

    @classmethod
    def centred(cls, weight: Tensor, tokens: Tensor, weights: Tensor) -> WordEmbeddings:
        """Embeddings whose mean under some weights (N,) is 0."""
        nothing = cls(weight, tokens, torch.zeros(weight.shape[1], dtype=torch.float64))
        parts = zip(weights.split(_WORDS), nothing.blocks(), strict=True)
        return cls(weight, tokens, torch.stack([own @ rows for own, rows in parts]).sum(0))

    def blocks(self) -> Iterator[Tensor]:
        """The embeddings, some words (n, d) at a time, float64 on the CPU."""
        for tokens in self.tokens.split(_WORDS):
            yield in_float64(self.weight[tokens.to(self.weight.device)], self.mean.device) - self.mean


@dataclass(frozen=True)
class SharedVocabulary:
    """N words that two vocabularies share: e₁ (N, d₁) their embeddings in one model, e₂ (N, d₂) in the other, centred.

    Attributes:
        source: e₁.
        target: e₂.
        weights: the weights q of the words (N,), float64, which add up to 1: powers of how often both models expect a
            word.
        frequency: the probability that the source gives to all these words together.
    """

    source: WordEmbeddings
    target: WordEmbeddings
    weights: Tensor
    frequency: float

    def second_moment(self, words: WordEmbeddings) -> Tensor:
        """``eᵀ q e`` (d, d) of one model's words, float64."""
        d = words.weight.shape[1]
        total = torch.zeros(d, d, dtype=torch.float64)
        for weights, rows in zip(self.weights.split(_WORDS), words.blocks(), strict=True):
            add_product(total, rows, rows, weights)
        return total

    def cross(self, x: Tensor | None = None) -> Tensor:
        """``e₂ᵀ q e₁ x`` (d₂, r) for x (d₁, r), float64; ``e₂ᵀ q e₁`` (d₂, d₁) without x."""
        d1, d2 = (words.weight.shape[1] for words in (self.source, self.target))
        total = torch.zeros(d2, d1 if x is None else x.shape[1], dtype=torch.float64)
        parts = zip(self.weights.split(_WORDS), self.source.blocks(), self.target.blocks(), strict=True)
        for weights, e1, e2 in parts:
            add_product(total, e2, e1 if x is None else e1 @ x, weights)
        return total


def find_shared_vocabulary(source: LM, target: LM, states: AlignedStates, power: float) -> SharedVocabulary:
    """Find the words that two models have in common.

    Args:
        source: one model.
        target: the other model.
        states: states from which the models expect words.
        power: the weight of a word is its frequency to this power: 0 gives all words one weight, 1 gives each its
            frequency, which is the geometric mean of both models' probabilities.

    Raises:
        ModelError: there are none.
    """
    first, second = ({text: token for token, text in enumerate(token_texts(lm)) if text} for lm in (source, target))
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ModelError(f"{source.name} and {target.name} have no words in common: nothing can be transferred.")
    ids = [torch.tensor([tokens[text] for text in common]) for tokens in (first, second)]
    samples = (states.source_sample, states.target_sample)
    expected = [
        _mean_probabilities(lm.head, sample)[tokens] + _LEAST_PROBABILITY
        for lm, sample, tokens in zip((source, target), samples, ids, strict=True)
    ]
    weights = (expected[0] * expected[1]) ** (power / 2)
    weights = weights / weights.sum()
    e1, e2 = (
        WordEmbeddings.centred(lm.head.weight, tokens, weights)
        for lm, tokens in zip((source, target), ids, strict=True)
    )
    return SharedVocabulary(e1, e2, weights, float(expected[0].sum()))


@torch.inference_mode()
def _mean_probabilities(head: Head, h: Tensor) -> Tensor:
    """Mean probability (V,) of each token after hidden states (n, d), float64 on the CPU."""
    total = torch.zeros(head.weight.shape[0], dtype=torch.float64)
    for (rows,) in head.pieces(h.to(head.weight.device)):
        total += head.logits(rows).softmax(-1).sum(0).cpu().double()  # on the CPU, because MPS has no float64
    return total / len(h)
