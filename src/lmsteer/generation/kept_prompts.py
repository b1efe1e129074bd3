"""Prompts that are continued more than once: they are read once, and their keys and values are kept meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from lmsteer.generation.backends import backend_for
from lmsteer.generation.prefill import Prefill, read_prompts
from lmsteer.model.lm import LM

# Of more prompt tokens than this the keys and values would take too much memory (here 0.4 GB of the default model).
_MOST_TOKENS = 8192
# Prompts that are read side by side.
_BATCH = 64


def can_be_kept(lengths: Iterable[int]) -> bool:
    """Whether the keys and values of prompts of some lengths, in tokens, fit into memory together."""
    return sum(lengths) <= _MOST_TOKENS


@torch.inference_mode()
def read_once(lm: LM, prefill: Prefill) -> Prefill:
    """The same prompts with their keys and values: rows that continue them have only their last tokens to read.

    Prompts stay as they are where they are too many to be kept, and where the model keeps no keys and values.

    Args:
        lm: the model.
        prefill: the prompts.
    """
    starts = list(prefill.starts)
    _, max_rows = backend_for(lm)
    if max_rows is not None or not can_be_kept(len(start.ids) for start in starts):
        return prefill
    order = sorted(range(len(starts)), key=lambda i: len(starts[i].ids))
    with lm.exclusive_use(), prefill.installed():
        for first in range(0, len(order), _BATCH):
            places = order[first : first + _BATCH]
            some = [starts[place] for place in places]
            *_, last = read_prompts(lm, some, len(some) * max(len(start.ids) for start in some))
            for place, start, states in zip(places, some, last.states, strict=True):
                position = start.position + len(start.ids) - 1
                starts[place] = replace(start, ids=start.ids[-1:], kept=states, position=position)
    return replace(prefill, starts=starts)
