"""Steering under vLLM's first model runner, which says before each pass which row is which request.

So hidden states are steered in front of the head, as everywhere in lmsteer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.limits import RowLimits
from lmsteer.model.head import HeadShard
from lmsteer.serving.vllm.asked import NOTHING, Asked, AskedTable
from lmsteer.serving.vllm.checked_bases import CheckedBases
from lmsteer.serving.vllm.limits import within_limits
from lmsteer.steer.mix import Mix


class SteeredRow(NamedTuple):
    """A row of the batch that is steered.

    Attributes:
        asked: what its request asks for.
        written: the tokens that it has written so far, a list that vLLM lengthens.
    """

    asked: Asked
    written: Sequence[int]


class LimitedRows(NamedTuple):
    """The rows of a pass whose logits are limited. They reach the head unsteered.

    Attributes:
        places: their places (L,) in the batch.
        mix: their steers and strengths.
        h: their hidden states (L, d).
        limits: how far their steers may move them.
    """

    places: Tensor
    mix: Mix
    h: Tensor
    limits: RowLimits

    @property
    def shift(self) -> Tensor:
        """What the steers change of the hidden states (L, d)."""
        h = self.h.float()
        return (self.mix.steer_hidden_states(h) - h).to(self.h.dtype)

    def logits(self, raw: Tensor, shift: Tensor, post: Callable[[Tensor], Tensor]) -> Tensor:
        """Their steered logits (L, V), within the limits.

        Args:
            raw: the raw logits (B, V) of the pass.
            shift: the raw logits (L, V) of ``shift``, which the head is linear in.
            post: the model's own scale and soft cap; it may work in place.
        """
        z0, z1 = raw[self.places].float(), self.mix.steer_logits(shift.float())
        return within_limits(z0, z1, self.limits, lambda z: post(z.clone()))


class BeforeHead:
    """Which rows of the next pass are steered, and how.

    Attributes:
        rows: the steered rows, by place in the batch.
    """

    def __init__(self) -> None:
        self.rows: dict[int, SteeredRow] = {}
        self._size, self._announced = 0, False
        self._table: AskedTable | None = None
        self._limited: LimitedRows | None = None
        self._bases = CheckedBases()

    def announce(self, size: int | None) -> None:
        """Prepare for the next forward pass, in which ``size`` rows are sampled; None for as many as last time.

        Only the next rows that reach the head are sampled. Later ones (log-likelihoods of prompts, say) and those that
        were not announced (memory profiling) are not steered.
        """
        if size is not None:
            self._size = size
        if size:
            # Steers that were there stay on the device; only strengths move.
            asked = [self.rows[row].asked if row in self.rows else NOTHING for row in range(size)]
            self._table = AskedTable.of(asked, self._table and self._table.mix, torch.device("cpu"))
        self._announced = True

    def mix(self, h: Tensor, head: HeadShard) -> Mix | None:
        """The mix for the hidden states ``h`` (B, d) that reach the head; None if they are not steered.

        Rows with limits have strength 0 in it: ``take_limited`` has them.

        Raises:
            RuntimeError: the number of rows is not the announced one, so it is unknown which row is which request.
            WrongBaseError: a steer belongs to another base.
        """
        announced, self._announced = self._announced, False
        if not announced or not self._steers:
            return None
        if h.shape[0] != self._size:
            raise RuntimeError(f"{self._size} rows were announced to lmsteer, but {h.shape[0]} reached the head.")
        assert self._table is not None
        mix = self._table.mix_at(torch.tensor([self._written(row) for row in range(self._size)]))
        self._bases.check(mix, head)
        if not (places := [row for row in range(self._size) if row in self.rows and self.rows[row].asked.limits.on]):
            return mix
        where = torch.tensor(places)
        limits = RowLimits.of([self.rows[row].asked.limits for row in places], [()] * len(places), 0, h.device)
        self._limited = LimitedRows(where.to(h.device), mix.for_rows(where), h[where.to(h.device)], limits)
        return mix.without_rows(where)

    def take_limited(self) -> LimitedRows | None:
        """The rows with limits of the pass that has just gone through the head; None if there are none."""
        limited, self._limited = self._limited, None
        return limited

    def _written(self, row: int) -> int:
        """The number of tokens that a row has written."""
        return len(self.rows[row].written) if row in self.rows else 0

    def check_acted(self) -> None:
        """Refuse to continue if the announced rows never reached the head.

        Raises:
            RuntimeError: the model computes its logits in a way of its own.
        """
        if self._announced and self._steers:
            raise RuntimeError(
                "this model computes its logits without vLLM's LogitsProcessor layer: it cannot be steered."
            )

    @property
    def _steers(self) -> bool:
        """Whether any of the announced rows is steered."""
        return any(row < self._size for row in self.rows)
