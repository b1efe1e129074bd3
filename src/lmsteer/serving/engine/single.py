"""One row at a time, for models whose past is no keys and values (Mamba and its like)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmsteer.model.lm import LM

# What transformers has called the cache of such models.
_NAMES = ("cache", "past_key_values", "cache_params")


class SingleRow:
    """A batch of one row, as ``Batch`` is one of many."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._past: dict[str, Any] = {}

    def __len__(self) -> int:
        return int(bool(self._past))

    @property
    def bytes(self) -> int:
        """Not looked at: what is kept of one row does not grow."""
        return 0

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]]) -> Iterator[int]:
        """Take the one row in: a prompt, all of which but the last token is read here, at once."""
        (prompt,) = prompts
        takes = inspect.signature(self._lm.model.forward).parameters
        name = next((name for name in _NAMES if name in takes), _NAMES[0])
        self._past = {name: DynamicCache(config=self._lm.model.config)}
        if len(prompt) > 1:
            self._forward(prompt[:-1])
        yield from ()

    def leave(self, row: int) -> None:
        """Take it out."""
        self._past = {}

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Logits (1, V) after one more token."""
        return self._forward(ids)

    def _forward(self, ids: Sequence[int]) -> Tensor:
        tokens = torch.tensor([list(ids)], device=self._lm.device)
        return self._lm.model(input_ids=tokens, use_cache=True, **self._past).logits[:, -1]
