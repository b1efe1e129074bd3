"""Rows of a batch with a strength each: how strengths are broadcast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lmsteer.steer.transform import broadcast_rows


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
