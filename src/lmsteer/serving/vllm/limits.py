"""The limits of a token in vLLM, which may forbid words itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmsteer.generation.limits import RowLimits, limited

# What is taken off the logits of words that a limit rules out. These are not minus infinity: a grammar of vLLM may
# leave no other words.
RULED_OUT = 1e4


def within_limits(z0: Tensor, z1: Tensor, limits: RowLimits, post: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits (B, V) of steered rows within their limits; arguments as those of ``generation.limits.limited``."""
    found = limited(z0, z1, limits, post)
    return torch.where(found.logits.isneginf(), found.steered - RULED_OUT, found.logits)
