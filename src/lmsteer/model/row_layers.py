"""Whether a model's layers run on the rows of a batch, so that each can have a strength or an adapter of its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.steer.hook import unsteered

_ROWS, _TOKENS = 3, 5
_PROVEN = WeakSet[nn.Module]()


@torch.inference_mode()
def check_rows(lm: LM) -> None:
    """Refuse a model whose layers do not run on rows (B, T, ..), plain or flattened to (B T, ..).

    Raises:
        ModelError: it is such a model; its rows cannot have a strength each.
    """
    if lm.model in _PROVEN:
        return
    seen: list[torch.Size] = []

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor):
            seen.append(args[0].shape)

    with ExitStack() as stack:
        stack.enter_context(lm.exclusive_use())
        stack.enter_context(unsteered(lm.model))
        for module in lm.model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                stack.enter_context(module.register_forward_pre_hook(look))
        ids = torch.arange(1, 1 + _ROWS * _TOKENS, device=lm.device).reshape(_ROWS, _TOKENS) % lm.head.weight.shape[0]
        lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if odd := [shape for shape in seen if shape[0] not in (1, _ROWS, _ROWS * _TOKENS)]:
        raise ModelError(
            f"{type(lm.model).__name__} gives its layers {tuple(odd[0])} for {_ROWS} rows of {_TOKENS} tokens: a row "
            "cannot have a strength or an adapter of its own."
        )
    _PROVEN.add(lm.model)
