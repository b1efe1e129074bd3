"""The shared vocabulary of two models: tokens with the same text, and how often each model expects them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.transferring.alignment import AlignedStates

# Added to the probability of each word, so that words that neither model expects have some weight.
_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class SharedVocabulary:
    """N words that two vocabularies share, float64 on the CPU.

    Attributes:
        source: their embeddings in the source's head (N, d₁); the mean under ``weights`` is subtracted.
        target: their embeddings in the target's head (N, d₂), likewise.
        weights: the weights of the words (N,), which add up to 1: powers of how often both models expect a word.
        frequency: the probability that the source gives to all these words together.
    """

    source: Tensor
    target: Tensor
    weights: Tensor
    frequency: float


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
    e1, e2 = (lm.head.weight.cpu()[tokens].double() for lm, tokens in zip((source, target), ids, strict=True))
    return SharedVocabulary(e1 - weights @ e1, e2 - weights @ e2, weights, float(expected[0].sum()))


@torch.inference_mode()
def _mean_probabilities(head: Head, h: Tensor) -> Tensor:
    """Mean probability (V,) of each token after hidden states (n, d), float64 on the CPU."""
    total = torch.zeros(head.weight.shape[0], dtype=torch.float64)
    for (rows,) in head.pieces(h.to(head.weight.device)):
        total += head.logits(rows).softmax(-1).sum(0).cpu().double()  # on the CPU, because MPS has no float64
    return total / len(h)
