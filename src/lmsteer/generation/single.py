"""Backends of one row: for recurrent models (Mamba and its like), and for models whose cache is of no use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmsteer.errors import ModelError
from lmsteer.generation.prefill import PromptChunk
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM

# Names that models of transformers 5 give the parameter for their recurrent state.
_NAMES = ("cache", "past_key_values", "cache_params")


class SingleRow:
    """A backend of one row that keeps a recurrent state, with the methods of ``Backend``.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._state: dict[str, Any] = {}

    def __len__(self) -> int:
        return int(bool(self._state))

    @property
    def bytes(self) -> int:
        """Always 0: a recurrent state does not grow with the text, so it is not measured."""
        return 0

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Read all tokens but the last of the one prompt, in one pass."""
        prompt = _one_prompt(self._lm, starts)
        parameters = inspect.signature(self._lm.model.forward).parameters
        name = next((name for name in _NAMES if name in parameters), _NAMES[0])
        self._state = {name: DynamicCache(config=self._lm.model.config)}
        read = torch.tensor([prompt[:-1]], device=self._lm.device)
        hidden = self._lm.before_head(**self._inputs(read))[0] if len(prompt) > 1 else torch.zeros(0)
        yield PromptChunk(0, [hidden])

    def remove(self, row: int) -> None:
        """Remove the row."""
        self._state = {}

    def make_room(self) -> None:
        """Do nothing: the state does not grow."""

    @torch.inference_mode()
    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (1, V) after one more token, which cannot be taken back."""
        return self._lm.model(**self._inputs(ids[:, None])).logits[:, -1]

    def advance(self) -> None:
        """Do nothing: the state holds the token."""

    def _inputs(self, ids: Tensor) -> dict[str, Any]:
        return {"input_ids": ids, "use_cache": True, **self._state}


class RereadRow:
    """A backend of one row that keeps nothing: the whole text is read again for each token.

    It is exact for every causal model, and slow: the cost of a token grows with the text.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._text, self._next = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
        self._is_used = False

    def __len__(self) -> int:
        return int(self._is_used)

    @property
    def bytes(self) -> int:
        """Always 0: nothing is kept."""
        return 0

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Take the one prompt, without its last token; it is read once for its hidden states."""
        prompt = _one_prompt(self._lm, starts)
        self._text, self._is_used = torch.tensor([prompt[:-1]], dtype=torch.int64, device=self._lm.device), True
        hidden = self._lm.before_head(input_ids=self._text)[0] if len(prompt) > 1 else torch.zeros(0)
        yield PromptChunk(0, [hidden])

    def remove(self, row: int) -> None:
        """Remove the row."""
        self._is_used = False

    def make_room(self) -> None:
        """Do nothing: nothing is kept."""

    @torch.inference_mode()
    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (1, V) after one more token."""
        self._next = ids[:, None]
        whole = torch.cat([self._text, self._next], 1)
        return self._lm.model(input_ids=whole, use_cache=False).logits[:, -1]

    def advance(self) -> None:
        """Keep the token of the last forward pass."""
        self._text = torch.cat([self._text, self._next], 1)


def _one_prompt(lm: LM, starts: Sequence[Start]) -> list[int]:
    (start,) = starts
    if start.kept is not None:
        raise ModelError(f"{type(lm.model).__name__} keeps no keys and values: nothing can stand before its prompts.")
    return list(start.ids)
