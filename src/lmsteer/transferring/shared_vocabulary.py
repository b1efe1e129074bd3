"""Shared words: tokens that stand for the same text in two vocabularies, and how often each model expects them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.transferring.alignment import AlignedStates

# Words that neither model expects weigh this little, not nothing.
_RAREST = 1e-9


@dataclass(frozen=True)
class SharedVocabulary:
    """N words of two vocabularies, float64 on the CPU.

    Attributes:
        source: their embeddings in the source's head, centred by ``weights`` (N, d₁).
        target: in the target's head (N, d₂).
        weights: that add up to 1 (N,): powers of how often both models expect a word.
        frequency: of the words together, in what the source expects.
    """

    source: Tensor
    target: Tensor
    weights: Tensor
    frequency: float


def find_shared_vocabulary(source: LM, target: LM, pairs: AlignedStates, power: float) -> SharedVocabulary:
    """Find the words that two models have in common.

    Args:
        source: one model.
        target: the other.
        pairs: states to see how often words are expected from.
        power: of the frequency that a word is weighed by: 0 for all alike, 1 for the frequency itself, which is the
            geometric mean of both models'.

    Raises:
        ModelError: there are none.
    """
    first, second = ({text: token for token, text in enumerate(token_texts(lm)) if text} for lm in (source, target))
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ModelError(f"{source.name} and {target.name} have no words in common: nothing can be carried over.")
    ids = [torch.tensor([tokens[text] for text in common]) for tokens in (first, second)]
    expected = [
        _expected(lm.head, sample)[tokens] + _RAREST
        for lm, sample, tokens in zip((source, target), (pairs.source_sample, pairs.target_sample), ids, strict=True)
    ]
    weights = (expected[0] * expected[1]) ** (power / 2)
    weights = weights / weights.sum()
    e1, e2 = (lm.head.weight.cpu()[tokens].double() for lm, tokens in zip((source, target), ids, strict=True))
    return SharedVocabulary(e1 - weights @ e1, e2 - weights @ e2, weights, float(expected[0].sum()))


@torch.inference_mode()
def _expected(head: Head, h: Tensor) -> Tensor:
    """Mean probability (V,) of each token after hidden states (n, d)."""
    total = torch.zeros(head.weight.shape[0], dtype=torch.float64)
    for (rows,) in head.pieces(h.to(head.weight.device)):
        total += head.logits(rows).softmax(-1).sum(0).double().cpu()
    return total / len(h)
