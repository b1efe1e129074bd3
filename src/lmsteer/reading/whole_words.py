"""Whole words among a model's tokens, found by the model itself: no word list is needed, in any script with spaces.

A token counts as a whole word if it begins with a space, has letters only, and if the model, after this token alone,
gives a token that would extend it less than half of the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.reading.words import is_word

# Candidates that the model is asked about, for each word that is wanted.
_CANDIDATES = 8


class WeightedWord(NamedTuple):
    """A whole word, its weight (such as the change of its logit), and its token."""

    text: str
    weight: float
    token: int


class WholeWords:
    """The whole words of a model. The model is asked about a token when it is needed, and once."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        texts = token_texts(lm)
        spaced = [text.startswith(" ") for text in texts]
        words = [text.strip() for text in texts]
        begins = [space and is_word(word) and len(word) > 1 for space, word in zip(spaced, words, strict=True)]
        # If no token begins with a space, as in tokenizers of bytes, any letters count.
        self._begins = torch.tensor(begins if any(begins) else [is_word(word) for word in words])
        longer = [word[:1].isalnum() and not space for space, word in zip(spaced, words, strict=True)]
        self._extends = torch.tensor(longer) if any(begins) else None
        self._is_whole: dict[int, bool] = {}

    def first(self, weights: Tensor, count: int, sign: float = 1.0) -> tuple[WeightedWord, ...]:
        """The words of highest weight (V,), each once in any case; the weights returned are multiplied by ``sign``."""
        weights = weights.masked_fill(~self._begins, -torch.inf)
        best = weights.topk(min(_CANDIDATES * count, int(self._begins.sum())))
        tokens = best.indices[best.values > 0].tolist()
        self._check([token for token in tokens if token not in self._is_whole])
        words: dict[str, WeightedWord] = {}
        for token in tokens:
            if self._is_whole[token]:
                text = self._lm.codec.decode([token], skip_special=False).strip()
                words.setdefault(text.casefold(), WeightedWord(text, sign * float(weights[token]), token))
        return tuple(list(words.values())[:count])

    @torch.inference_mode()
    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        if self._extends is None:
            self._is_whole |= dict.fromkeys(tokens, True)
            return
        ids = torch.tensor([[self._lm.start_id, token] for token in tokens], device=self._lm.device)
        h = self._lm.hidden_states(ids, torch.ones_like(ids))[:, 1]
        longer = torch.empty(len(tokens))
        for rows, here in self._lm.head.pieces(h, longer):
            here[:] = self._lm.head.logits(rows).softmax(-1)[:, self._extends].sum(1)
        self._is_whole |= {token: bool(share < 0.5) for token, share in zip(tokens, longer, strict=True)}
