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


class _OneRow:
    """What the backends of one row have in common: a state that does not grow like a cache, and is not measured.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._state: dict[str, Any] = {}  # empty without a row

    def __len__(self) -> int:
        return int(bool(self._state))

    @property
    def bytes(self) -> int:
        """Always 0: the state is not measured."""
        return 0

    def remove(self, row: int) -> None:
        """Remove the row."""
        self._state = {}

    def make_room(self) -> None:
        """Do nothing: there always is room."""

    def _prompt(self, starts: Sequence[Start]) -> list[int]:
        (start,) = starts
        if start.kept is not None or start.adapter is not None:
            model = type(self._lm.model).__name__
            raise ModelError(
                f"{model} writes one row at a time: nothing can stand before it, and no adapter be its own."
            )
        return list(start.ids)


class SingleRow(_OneRow):
    """A backend of one row that keeps a recurrent state, with the methods of ``Backend``."""

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Read all tokens but the last of the one prompt, in one pass."""
        prompt = self._prompt(starts)
        parameters = inspect.signature(self._lm.model.forward).parameters
        name = next((name for name in _NAMES if name in parameters), _NAMES[0])
        self._state = {name: DynamicCache(config=self._lm.model.config)}
        read = torch.tensor([prompt[:-1]], device=self._lm.device)
        steering = starts[0].reading
        hidden = self._lm.before_head(steering, **self._inputs(read))[0] if len(prompt) > 1 else torch.zeros(0)
        yield PromptChunk(0, [hidden])

    @torch.inference_mode()
    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (1, V) after one more token, which cannot be taken back."""
        return self._lm.model(**self._inputs(ids[:, None])).logits[:, -1]

    def advance(self) -> None:
        """Do nothing: the state holds the token."""

    def _inputs(self, ids: Tensor) -> dict[str, Any]:
        return {"input_ids": ids, "use_cache": True, **self._state}


class RereadRow(_OneRow):
    """A backend of one row that keeps nothing but its text, which is read again for each token.

    It is exact for every causal model, and slow: the cost of a token grows with the text.
    """

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Take the one prompt, without its last token; it is read once for its hidden states."""
        read = torch.tensor([self._prompt(starts)[:-1]], dtype=torch.int64, device=self._lm.device)
        self._state = {"text": read, "longer": read}
        hidden = self._lm.before_head(starts[0].reading, input_ids=read)[0] if read.shape[1] else torch.zeros(0)
        yield PromptChunk(0, [hidden])

    @torch.inference_mode()
    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (1, V) after one more token."""
        self._state["longer"] = torch.cat([self._state["text"], ids[:, None]], 1)
        return self._lm.model(input_ids=self._state["longer"], use_cache=False).logits[:, -1]

    def advance(self) -> None:
        """Keep the token of the last forward pass."""
        self._state["text"] = self._state["longer"]
