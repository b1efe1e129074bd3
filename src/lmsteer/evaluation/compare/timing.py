"""Generation times of a baseline, as multiples of the unsteered model's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch

from lmsteer.data.chats import Prompt
from lmsteer.evaluation.conditions import Condition, Unsteered
from lmsteer.generation.config import GenerationConfig
from lmsteer.model.lm import LM

_REPEATS, _PROMPTS = 3, 8


def relative_times(lm: LM, condition: Condition, prompts: Sequence[Prompt], new_tokens: int) -> tuple[float, float]:
    """Time to the first token, and time per token after it, as multiples of the unsteered model's.

    Both models take turns; the medians of three turns count, after one that does not.

    Args:
        lm: the model.
        condition: the baseline at a strength.
        prompts: the prompts, of which the first eight are used.
        new_tokens: the length of the continuations in tokens, 2 or more.
    """
    few = list(prompts[:_PROMPTS])
    unsteered = Unsteered()
    for each in (unsteered, condition):
        _times(lm, each, few, new_tokens)
    pairs = [(_times(lm, unsteered, few, new_tokens), _times(lm, condition, few, new_tokens)) for _ in range(_REPEATS)]
    first, per_token = (
        median(pair[1][k] for pair in pairs) / max(median(pair[0][k] for pair in pairs), 1e-9) for k in range(2)
    )
    return first, per_token


def _times(lm: LM, condition: Condition, prompts: Sequence[Prompt], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and per token after it."""
    (first, few), (whole, many) = (_generate(lm, condition, prompts, tokens) for tokens in (1, new_tokens))
    return first, (whole - first) / max(many - few, 1)


def _generate(lm: LM, condition: Condition, prompts: Sequence[Prompt], new_tokens: int) -> tuple[float, int]:
    """Seconds and number of generated tokens."""
    config = GenerationConfig(max_new_tokens=new_tokens)
    _synchronize(lm)
    started = time.perf_counter()
    rows = condition.continuations(lm, prompts, condition.prefill(lm, prompts, new_tokens), config)
    tokens = sum(row.tokens for row in rows)
    _synchronize(lm)
    return time.perf_counter() - started, tokens


def _synchronize(lm: LM) -> None:
    """Wait for the GPU, whose work is asynchronous."""
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
