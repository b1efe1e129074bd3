"""What requests ask for: steers, strengths, windows and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.config import NO_LIMITS, Limits
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, sizes_of, window_of
from lmsteer.steer.window import ALL
from lmsteer.steer.window_table import WindowTable


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        steers: the steers, by name.
        strengths: their strengths: numbers, or numbers within windows.
        limits: how far they may move each token.
    """

    steers: Mapping[str, Steer]
    strengths: Strengths
    limits: Limits = NO_LIMITS


NOTHING = Asked({}, {})


class AskedTable(NamedTuple):
    """What each row of a batch asks for.

    Attributes:
        mix: the steers, with the whole strength of each row.
        windows: at which tokens they act; None if all do at all tokens.
    """

    mix: Mix
    windows: WindowTable | None

    @classmethod
    def of(cls, rows: Sequence[Asked], before: Mix | None, device: torch.device) -> AskedTable:
        """The table of some rows.

        Args:
            rows: what each asks for.
            before: the mix of the rows as they were, whose steers stay where they are.
            device: the device of the table.
        """
        mix = row_by_row([(asked.steers, sizes_of(asked.strengths)) for asked in rows], before)
        windows = [
            (row, mix.column(name, steer), window_of(asked.strengths[name]))
            for row, asked in enumerate(rows)
            for name, steer in asked.steers.items()
        ]
        strengths = mix.strengths.pin_memory() if device.type == "cuda" else mix.strengths
        acting = None
        if any(window != ALL for *_, window in windows):
            acting = WindowTable.of(windows, strengths.shape, device)
        return cls(mix.at(strengths.to(device, non_blocking=True)), acting)

    def mix_at(self, token: Tensor, rows: Tensor | None = None) -> Mix:
        """The steers with the strengths that act at a token of each continuation.

        Args:
            token: the number of the token (N,), from 0.
            rows: the rows (N,) that are wanted, in any order; all of them if None.
        """
        if self.windows is None and rows is None:
            return self.mix
        strengths = self.mix.strengths if rows is None else self.mix.strengths[rows]
        if self.windows is not None:
            windows = self.windows if rows is None else self.windows.at(rows)
            strengths = strengths * windows.shares(token[:, None])
        return self.mix.at(strengths)
