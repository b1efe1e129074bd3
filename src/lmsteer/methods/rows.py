"""Whether a model runs the rows of a batch where a strength for each row would look for them: first."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from lmsteer.errors import ModelError
from lmsteer.lm import LM

_ROWS, _TOKENS = 3, 5
_PROVEN = WeakSet[nn.Module]()


@torch.inference_mode()
def check_rows(lm: LM) -> None:
    """Refuse a model whose layers are given anything else than (B, T, ..), or that flattened.

    Raises:
        ModelError: it is such a model.
    """
    if lm.model in _PROVEN:
        return
    seen: list[torch.Size] = []

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor):
            seen.append(args[0].shape)

    hooks = [m.register_forward_pre_hook(look) for m in lm.model.modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    try:
        ids = torch.arange(1, 1 + _ROWS * _TOKENS, device=lm.device).reshape(_ROWS, _TOKENS) % lm.head.weight.shape[0]
        lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if odd := [shape for shape in seen if shape[0] not in (1, _ROWS, _ROWS * _TOKENS)]:
        raise ModelError(
            f"{type(lm.model).__name__} gives its layers {tuple(odd[0])} for {_ROWS} rows of {_TOKENS} tokens: no row "
            "of them can have a strength of its own."
        )
    _PROVEN.add(lm.model)
