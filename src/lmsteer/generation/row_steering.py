"""What steers the rows of a batch: their hidden states, or, of the rows apart, the logits of the unsteered model.

The rows apart are those with limits, those whose readings are asked for, and those that hold a reading: all need the
unsteered model's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.hold import HeldStep, RowHolds
from lmsteer.generation.limits import Limited, RowLimits, limited
from lmsteer.generation.readings import RowReadings
from lmsteer.generation.row import Row
from lmsteer.generation.schedule import RowSchedule
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.steer.strength import sizes_of


class Parted(NamedTuple):
    """The logits of the rows apart at a step, in their parts.

    Attributes:
        hidden: the hidden states (L, d) in front of any steer, on the device of the head.
        raw: the raw logits (L, V) of the unsteered model, on the model's device.
        limited: the steered logits within the limits, likewise.
        held: what their tokens may add to the sums of their holds; None without holds.
    """

    hidden: Tensor
    raw: Tensor
    limited: Limited
    held: HeldStep | None


class RowSteering(NamedTuple):
    """What steers some rows.

    Attributes:
        mix: the steers and strengths of the rows that are not apart; 0 for the others.
        places: the places (L,) of the rows apart, on the model's device.
        apart: the steers and strengths of these.
        limits: how far they may move each token.
        readings: which of them are read, and by which steers.
        schedule: the windows of all rows; None if all strengths are numbers that act at all tokens.
        holds: the holds of the rows apart; None without holds.
    """

    mix: Mix
    places: Tensor
    apart: Mix
    limits: RowLimits
    readings: RowReadings
    schedule: RowSchedule | None
    holds: RowHolds | None

    @classmethod
    def of(cls, rows: Sequence[Row], written: Sequence[Sequence[int]], before: Mix | None, lm: LM) -> RowSteering:
        """What steers some rows.

        Args:
            rows: the rows.
            written: the tokens that each has written since it started.
            before: the mix of the rows as they were: the factors of its steers stay where they are.
            lm: the model.
        """
        mix = row_by_row([(row.steers, sizes_of(row.strengths)) for row in rows], before)
        columns = [{name: mix.column(name, steer) for name, steer in row.steers.items()} for row in rows]
        texts = [[*row.written, *own] for row, own in zip(rows, written, strict=True)]
        apart = {place: row for place, row in enumerate(rows) if row.limits.on or row.readings or row.held}
        longest = max((len(row.written) + len(row.noise) for row in apart.values()), default=0)
        given = [row.limits for row in apart.values()]
        places = torch.tensor([*apart], dtype=torch.int64)
        return cls(
            mix.without_rows(places) if apart else mix,
            places.to(lm.device),
            mix.for_rows(places) if apart else mix,
            RowLimits.of(given, [texts[place] for place in apart], longest, lm.device),
            RowReadings.of([*apart.values()], mix, lm.device),
            RowSchedule.of(rows, texts, columns, mix.strengths, lm),
            RowHolds.of(apart, columns, lm.device),
        )

    def now(self) -> RowSteering:
        """With the strengths of the next token."""
        if self.schedule is None:
            return self
        strengths = self.schedule.now()
        if not len(self.places):
            return self._replace(mix=self.mix.at(strengths))
        mix, apart = strengths.index_fill(0, self.places, 0.0), strengths.index_select(0, self.places)
        return self._replace(mix=self.mix.at(mix), apart=self.apart.at(apart))

    def acting(self) -> Tensor | None:
        """Whether any steer acts on the next token of each row (B,); None if all do that have a strength."""
        return None if self.schedule is None else (self.schedule.now() != 0).any(1)

    def after(self, tokens: Tensor, holds: RowHolds | None) -> RowSteering:
        """That of the next step, after each row's token (B,), with its holds."""
        schedule = None if self.schedule is None else self.schedule.after(tokens)
        return self._replace(limits=self.limits.after(tokens[self.places]), schedule=schedule, holds=holds)

    def parted(self, head: Head, hidden: Tensor, raw: Tensor) -> Parted:
        """The logits of the rows apart.

        Args:
            head: the model's head.
            hidden: the hidden states (B, d) of all rows.
            raw: their raw logits (B, V); those of the rows apart are unsteered.
        """
        z0, h = (each[self.places.to(each.device)] for each in (raw, hidden))
        z0, mix, held = z0.to(self.places.device), self.apart, None
        if self.holds is not None:
            strengths, held = self.holds.strengths(head, z0, h, mix)
            mix = mix.at(strengths)
        z1 = mix.logit_shift(h, head.weight).to(z0.device)
        return Parted(h, z0, limited(z0, z1, self.limits, head.post), held)

    def table(self, head: Head, parted: Parted, tokens: Tensor) -> Tensor:
        """The readings (B, C) of the tokens (B,) of a step; 0 for the rows that are not read.

        Args:
            head: the model's head.
            parted: the logits of the rows apart.
            tokens: the tokens of all rows.
        """
        table = parted.limited.share.new_zeros(len(tokens), self.readings.width)
        table[self.places[self.readings.places]] = self.readings.table(
            head, self.apart, *parted[:3], tokens[self.places]
        )
        return table
