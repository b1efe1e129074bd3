"""Hidden states of many texts after one prompt, which is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmsteer.generation.backends import backend_for
from lmsteer.generation.prefill import read_prompts
from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import KVSlice, Start, stack_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE


class AfterPrompt:
    """Reads texts after one prompt, which is read once for all of them.

    Args:
        lm: the model.
        prompt: the token ids of the prompt, at least one.
    """

    def __init__(self, lm: LM, prompt: Sequence[int]) -> None:
        self._lm, self._prompt, self._kept = lm, [*prompt], list[KVSlice]()
        _, max_rows = backend_for(lm)
        if max_rows is None and len(self._prompt) > 1:  # a model that keeps no keys and values reads it each time
            *_, whole = read_prompts(lm, [Start(self._prompt)])
            self._kept = [*whole.states]

    @property
    def tokens(self) -> int:
        """The length of the prompt."""
        return len(self._prompt)

    @torch.inference_mode()
    def states(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each of some texts, the hidden states (T, d) that predict its tokens after the prompt."""
        lm, prompt = self._lm, self._prompt
        padded, mask = pad([[*prompt, *text] for text in texts], lm.pad_id, lm.device)
        seen, cache = 0, dict[str, Any]()
        if self._kept:
            seen = len(prompt) - 1
            cache = {CACHE: stack_kv(lm, self._kept * len(texts))[0], "use_cache": True}
        h = lm.before_head(input_ids=padded[:, seen:], attention_mask=mask, **cache)[:, len(prompt) - seen - 1 :]
        return [states[: len(text)].float().cpu() for states, text in zip(h, texts, strict=True)]
