"""The forward passes of a step: one over all rows, or, where that has failed, several over some rows each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.hold import RowHolds
from lmsteer.generation.sampling import OVERFLOW


class Pass(NamedTuple):
    """What a forward pass over some rows gives, on the model's device.

    Attributes:
        tokens: the tokens that are drawn (B',); ``OVERFLOW`` where logits are not finite numbers.
        logits: the steered logits (B', V).
        hidden: the hidden states (B', d) in front of any steer, on the device of the head.
        is_steered: whether the head was steered.
        readings: the readings of the tokens (B', C); C is 0 where no row asks for them.
        holds: the holds of the rows, after the tokens; None without holds.
    """

    tokens: Tensor
    logits: Tensor
    hidden: Tensor
    is_steered: bool
    readings: Tensor
    holds: RowHolds | None


class Together(NamedTuple):
    """What the passes of a step have drawn for all rows.

    Attributes:
        tokens: the tokens (B,); ``OVERFLOW`` for rows without a pass, which have failed.
        readings: their readings (B, C).
        holds: the holds after them; None without holds.
    """

    tokens: Tensor
    readings: Tensor
    holds: RowHolds | None


def together(
    passes: Sequence[tuple[Sequence[int], Pass]], holds: RowHolds | None, rows: int, device: torch.device
) -> Together:
    """Put the passes of a step together.

    Args:
        passes: the places of neighbouring rows, and the pass over them.
        holds: the holds of all rows before the step.
        rows: the number of rows.
        device: the model's device.
    """
    if len(passes) == 1 and len(passes[0][0]) == rows:
        return Together(passes[0][1].tokens, passes[0][1].readings, passes[0][1].holds)
    tokens = torch.full((rows,), OVERFLOW, device=device)
    width = max((done.readings.shape[1] for _, done in passes), default=0)
    readings = torch.zeros(rows, width, device=device)
    sums = {} if holds is None else holds.by_row()
    for places, done in passes:
        part = slice(places[0], places[0] + len(places))
        tokens[part] = done.tokens
        readings[part, : done.readings.shape[1]] = done.readings
        if done.holds is not None:
            sums |= {places[0] + row: own for row, own in done.holds.by_row().items()}
    return Together(tokens, readings, None if holds is None else holds.having(sums))
