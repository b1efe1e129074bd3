"""What steers the rows of a batch: their hidden states, or under limits the logits of the unsteered model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.limits import RowLimits, limited
from lmsteer.generation.row import Row
from lmsteer.model.head import Head
from lmsteer.steer.mix import Mix, row_by_row


class RowSteering(NamedTuple):
    """What steers some rows.

    Attributes:
        mix: the steers and strengths of the rows without limits; 0 for the others.
        places: the places (L,) of the rows with limits, on the model's device.
        limited: the steers and strengths of these.
        limits: how far they may move each token.
    """

    mix: Mix
    places: Tensor
    limited: Mix
    limits: RowLimits

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
        apart = [place for place, row in enumerate(rows) if row.limits.on]
        own = [rows[place] for place in apart]
        texts = [[*rows[place].written, *written[place]] for place in apart]
        longest = max((len(row.written) + len(row.noise) for row in own), default=0)
        limits = RowLimits.of([row.limits for row in own], texts, longest, device)
        places = torch.tensor(apart, dtype=torch.int64)
        if not apart:
            return cls(mix, places.to(device), mix, limits)
        return cls(mix.without_rows(places), places.to(device), mix.for_rows(places), limits)

    def after(self, tokens: Tensor) -> RowSteering:
        """That of the next step, after each row's token (B,)."""
        return self._replace(limits=self.limits.after(tokens[self.places]))

    def limited_logits(self, head: Head, hidden: Tensor, raw: Tensor) -> Tensor:
        """The logits (L, V) of the rows with limits.

        Args:
            head: the model's head.
            hidden: the hidden states (B, d) of all rows.
            raw: their raw logits (B, V); those of rows with limits are unsteered.
        """
        z0, h = (each[self.places.to(each.device)] for each in (raw, hidden))
        z1, device = self.limited.logit_shift(h, head.weight), self.places.device
        logits, _ = limited(z0.to(device), z1.to(device), self.limits, head.post)
        return logits
