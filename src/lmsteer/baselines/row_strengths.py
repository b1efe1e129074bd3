"""Rows of a batch with a strength each: how strengths are broadcast, and whether a model can have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.steer.transform import broadcast_rows

_ROWS, _TOKENS = 3, 5
_PROVEN = WeakSet[nn.Module]()


def broadcast_strengths(strengths: Tensor, x: Tensor) -> Tensor:
    """Strengths, one or one for each row (B,), shaped to broadcast over a tensor (B, ..) or (k B, ..).

    Raises:
        SteerError: the number of strengths does not match the number of rows.
    """
    return broadcast_rows(strengths[:, None], len(x)).view(-1, *[1] * (x.dim() - 1))


def in_order(parts: Sequence[Tensor], places: Iterable[Tensor]) -> Tensor:
    """Rows (B, ..) of several groups, put back in the order of the batch; ``places`` are each group's rows in it."""
    return torch.cat(list(parts))[torch.cat(list(places)).argsort()]


def by_strength(strengths: Tensor, run: Callable[[float, Tensor], Tensor]) -> Tensor:
    """Run the rows of each strength together, and return the results (B, ..) in the order of the batch.

    Args:
        strengths: strengths of the rows (B,).
        run: takes a strength and the places of its rows (b,), and returns their results (b, ..).
    """
    groups = {strength: (strengths == strength).nonzero().flatten() for strength in strengths.unique().tolist()}
    return in_order([run(strength, rows) for strength, rows in groups.items()], groups.values())


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

    hooks = [m.register_forward_pre_hook(look) for m in lm.model.modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    try:
        ids = torch.arange(1, 1 + _ROWS * _TOKENS, device=lm.device).reshape(_ROWS, _TOKENS) % lm.head.weight.shape[0]
        lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if odd := [shape for shape in seen if shape[0] not in (1, _ROWS, _ROWS * _TOKENS)]:
        raise ModelError(
            f"{type(lm.model).__name__} gives its layers {tuple(odd[0])} for {_ROWS} rows of {_TOKENS} tokens: a row "
            "cannot have a strength of its own."
        )
    _PROVEN.add(lm.model)
