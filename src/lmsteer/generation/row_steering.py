"""What steers the rows of a batch: their hidden states, or, of the rows apart, the logits of the unsteered model.

The rows apart are those with limits, and those whose readings are asked for: both need the unsteered model's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.limits import Limited, RowLimits, limited
from lmsteer.generation.readings import RowReadings
from lmsteer.generation.row import Row
from lmsteer.model.head import Head
from lmsteer.steer.mix import Mix, row_by_row


class Parted(NamedTuple):
    """The logits of the rows apart at a step, in their parts.

    Attributes:
        hidden: the hidden states (L, d) in front of any steer, on the device of the head.
        raw: the raw logits (L, V) of the unsteered model, on the model's device.
        limited: the steered logits within the limits, likewise.
    """

    hidden: Tensor
    raw: Tensor
    limited: Limited


class RowSteering(NamedTuple):
    """What steers some rows.

    Attributes:
        mix: the steers and strengths of the rows that are not apart; 0 for the others.
        places: the places (L,) of the rows apart, on the model's device.
        limited: the steers and strengths of these.
        limits: how far they may move each token.
        readings: which of them are read, and by which steers.
    """

    mix: Mix
    places: Tensor
    limited: Mix
    limits: RowLimits
    readings: RowReadings

    @classmethod
    def of(
        cls, rows: Sequence[Row], written: Sequence[Sequence[int]], before: Mix | None, device: torch.device
    ) -> RowSteering:
        """What steers some rows.

        Args:
            rows: the rows.
            written: the tokens that each has written since it started.
            before: the mix of the rows as they were: the factors of its steers stay where they are.
            device: the model's device.
        """
        mix = row_by_row([(row.steers, row.strengths) for row in rows], before)
        apart = [place for place, row in enumerate(rows) if row.limits.on or row.readings]
        own = [rows[place] for place in apart]
        texts = [[*rows[place].written, *written[place]] for place in apart]
        longest = max((len(row.written) + len(row.noise) for row in own), default=0)
        limits = RowLimits.of([row.limits for row in own], texts, longest, device)
        places = torch.tensor(apart, dtype=torch.int64)
        readings = RowReadings.of(own, mix, device)
        if not apart:
            return cls(mix, places.to(device), mix, limits, readings)
        return cls(mix.without_rows(places), places.to(device), mix.for_rows(places), limits, readings)

    def after(self, tokens: Tensor) -> RowSteering:
        """That of the next step, after each row's token (B,)."""
        return self._replace(limits=self.limits.after(tokens[self.places]))

    def parted(self, head: Head, hidden: Tensor, raw: Tensor) -> Parted:
        """The logits of the rows apart.

        Args:
            head: the model's head.
            hidden: the hidden states (B, d) of all rows.
            raw: their raw logits (B, V); those of the rows apart are unsteered.
        """
        z0, h = (each[self.places.to(each.device)] for each in (raw, hidden))
        z1, device = self.limited.logit_shift(h, head.weight), self.places.device
        return Parted(h, z0.to(device), limited(z0.to(device), z1.to(device), self.limits, head.post))

    def table(self, head: Head, parted: Parted, tokens: Tensor) -> Tensor:
        """The readings (B, C) of the tokens (B,) of a step; 0 for the rows that are not read.

        Args:
            head: the model's head.
            parted: the logits of the rows apart.
            tokens: the tokens of all rows.
        """
        table = parted.limited.share.new_zeros(len(tokens), self.readings.width)
        table[self.places[self.readings.places]] = self.readings.table(head, self.limited, *parted, tokens[self.places])
        return table
