"""Hidden states of many texts after one prompt, which is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmsteer.generation.backends import backend_for
from lmsteer.generation.prefill import read_prompts
from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import Start, stack_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE


@torch.inference_mode()
def states_after(lm: LM, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each of some texts, the hidden states (T, d) that predict its tokens after a prompt, which is read once."""
    padded, mask = pad([[*prompt, *text] for text in texts], lm.pad_id, lm.device)
    _, max_rows = backend_for(lm)
    seen = 0 if max_rows is not None else len(prompt) - 1  # a model that keeps no keys and values reads it each time
    cache: dict[str, Any] = {}
    if seen:
        *_, whole = read_prompts(lm, [Start(prompt)])
        cache = {CACHE: stack_kv(lm, [*whole.states] * len(texts))[0], "use_cache": True}
    h = lm.before_head(input_ids=padded[:, seen:], attention_mask=mask, **cache)[:, len(prompt) - seen - 1 :]
    return [states[: len(text)].float().cpu() for states, text in zip(h, texts, strict=True)]
