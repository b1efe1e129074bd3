"""The backend for recurrent models (Mamba and its like), which decode one sequence at a time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmsteer.model.lm import LM
from lmsteer.serving.engine.batch import PromptChunk

# Names that models of transformers 5 give the parameter for their recurrent state.
_NAMES = ("cache", "past_key_values", "cache_params")


class SingleRow:
    """A backend of one sequence, with the methods of ``Backend``."""

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
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Iterator[PromptChunk]:
        """Read all tokens but the last of the one prompt, in one pass."""
        (prompt,) = prompts
        parameters = inspect.signature(self._lm.model.forward).parameters
        name = next((name for name in _NAMES if name in parameters), _NAMES[0])
        self._state = {name: DynamicCache(config=self._lm.model.config)}
        hidden = self._lm.before_head(**self._inputs(prompt[:-1]))[0] if len(prompt) > 1 else torch.zeros(0)
        yield PromptChunk(0, [hidden])

    def remove(self, row: int) -> None:
        """Remove the sequence."""
        self._state = {}

    def make_room(self) -> None:
        """Do nothing: the state does not grow."""

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], first: int = 0) -> Tensor:
        """Logits (1, V) after one more token, which cannot be taken back."""
        return self._lm.model(**self._inputs(ids)).logits[:, -1]

    def advance(self) -> None:
        """Do nothing: the state holds the token."""

    def _inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([list(ids)], device=self._lm.device), "use_cache": True, **self._state}
