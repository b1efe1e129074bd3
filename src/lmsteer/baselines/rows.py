"""Rows of a batch, each at a strength of its own: spread over them, kept in order, and whether a model lets them."""

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


def spread(strengths: Tensor, x: Tensor) -> Tensor:
    """Strengths, one or one for each row (B,), shaped to broadcast over what has a row for each, or some (B, ..).

    Raises:
        SteerError: not as many strengths as there are rows.
    """
    return broadcast_rows(strengths[:, None], len(x)).view(-1, *[1] * (x.dim() - 1))


def in_order(parts: Sequence[Tensor], places: Iterable[Tensor]) -> Tensor:
    """Rows (B, ..) that were run in several lots, each at its places in the batch, in the order of the batch."""
    return torch.cat(list(parts))[torch.cat(list(places)).argsort()]


def by_strength(strengths: Tensor, run: Callable[[float, Tensor], Tensor]) -> Tensor:
    """Rows (B, ..) in the order of the batch, those of one strength run together.

    Args:
        strengths: of the rows (B,).
        run: given a strength and the places of its rows (b,), what comes out for them (b, ..).
    """
    lots = {strength: (strengths == strength).nonzero().flatten() for strength in strengths.unique().tolist()}
    return in_order([run(strength, rows) for strength, rows in lots.items()], lots.values())


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
