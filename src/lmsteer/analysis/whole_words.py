"""Whole words among a model's tokens, by the model itself: no word list is needed, in any language.

A token is taken for a whole word if it begins with a space, has letters only, and if the model, given it alone, mostly
does not go on with a token that would make it longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.lm import LM

# What byte-level and sentencepiece tokenizers write for the space before a word.
_SPACES = ("\u0120", "\u2581")
# Candidates that are looked at for each word that is wanted.
_CANDIDATES = 8


class Word(NamedTuple):
    """A whole word, and how far something moves its logit."""

    text: str
    weight: float
    token: int


class WholeWords:
    """The whole words of a model; which tokens are some is found as they are asked for."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        tokens = _tokens(lm)
        begins = [token[:1] in _SPACES and token[1:].isalpha() and len(token) > 2 for token in tokens]
        # Where no token begins with a space, as in tokenizers of bytes, any letters will do.
        letters = begins if any(begins) else [str(lm.tokenizer.decode([i])).isalpha() for i in range(len(tokens))]
        self._begins = torch.tensor(letters)
        longer = [token[:1].isalnum() and token[:1] not in _SPACES for token in tokens]
        self._goes_on = torch.tensor(longer) if any(begins) else None
        self._known: dict[int, bool] = {}

    def first(self, weights: Tensor, count: int, sign: float = 1.0) -> tuple[Word, ...]:
        """The words of highest weight (V,), each once whatever its case, with ``sign`` times their weight."""
        weights = weights.masked_fill(~self._begins, -torch.inf)
        best = weights.topk(min(_CANDIDATES * count, int(self._begins.sum())))
        tokens = best.indices[best.values > 0].tolist()
        self._look_at([token for token in tokens if token not in self._known])
        found: dict[str, Word] = {}
        for token in tokens:
            if self._known[token]:
                text = str(self._lm.tokenizer.decode([token])).strip()
                found.setdefault(text.casefold(), Word(text, sign * float(weights[token]), token))
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
        p = self._lm.head.logits(h).softmax(-1).cpu()
        longer = p[:, self._goes_on].sum(1)
        self._known |= {token: bool(share < 0.5) for token, share in zip(tokens, longer, strict=True)}


def _tokens(lm: LM) -> list[str]:
    """The tokens (V,) as the tokenizer writes them; empty ones where the head has more rows than it knows."""
    size = lm.head.weight.shape[0]
    special = set(lm.tokenizer.all_special_ids)
    known = {token_id: token for token, token_id in lm.tokenizer.get_vocab().items()}
    return ["" if i in special else known.get(i, "") for i in range(size)]
