"""Whole words among a model's tokens, by the model itself: no word list is needed, in any script that has blanks.

A token is taken for a whole word if it begins with a space, has letters only, and if the model, given it alone, mostly
does not go on with a token that would make it longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.reading.words import is_word

# Candidates that are looked at for each word that is wanted.
_CANDIDATES = 8


class WeightedWord(NamedTuple):
    """A whole word, and how far something moves its logit."""

    text: str
    weight: float
    token: int


class WholeWords:
    """The whole words of a model; which tokens are some is found as they are asked for."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        texts = token_texts(lm)
        spaced = [text.startswith(" ") for text in texts]
        words = [text.strip() for text in texts]
        begins = [space and is_word(word) and len(word) > 1 for space, word in zip(spaced, words, strict=True)]
        # Where no token begins with a space, as in tokenizers of bytes, any letters will do.
        self._begins = torch.tensor(begins if any(begins) else [is_word(word) for word in words])
        longer = [word[:1].isalnum() and not space for space, word in zip(spaced, words, strict=True)]
        self._goes_on = torch.tensor(longer) if any(begins) else None
        self._known: dict[int, bool] = {}

    def first(self, weights: Tensor, count: int, sign: float = 1.0) -> tuple[WeightedWord, ...]:
        """The words of highest weight (V,), each once whatever its case, with ``sign`` times their weight."""
        weights = weights.masked_fill(~self._begins, -torch.inf)
        best = weights.topk(min(_CANDIDATES * count, int(self._begins.sum())))
        tokens = best.indices[best.values > 0].tolist()
        self._look_at([token for token in tokens if token not in self._known])
        found: dict[str, WeightedWord] = {}
        for token in tokens:
            if self._known[token]:
                text = str(self._lm.tokenizer.decode([token])).strip()
                found.setdefault(text.casefold(), WeightedWord(text, sign * float(weights[token]), token))
        return tuple(list(found.values())[:count])

    @torch.inference_mode()
    def _look_at(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        if self._goes_on is None:
            self._known |= dict.fromkeys(tokens, True)
            return
        ids = torch.tensor([[self._lm.start_id, token] for token in tokens], device=self._lm.device)
        h = self._lm.hidden_states(ids, torch.ones_like(ids))[:, 1]
        longer = torch.empty(len(tokens))
        for rows, here in self._lm.head.pieces(h, longer):
            here[:] = self._lm.head.logits(rows).softmax(-1)[:, self._goes_on].sum(1)
        self._known |= {token: bool(share < 0.5) for token, share in zip(tokens, longer, strict=True)}
