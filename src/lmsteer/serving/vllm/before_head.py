"""Steering under vLLM's first model runner, which says before each pass which row is which request.

So hidden states are steered in front of the head, as everywhere in lmsteer.
"""

from __future__ import annotations

from torch import Tensor

from lmsteer.model.head import HeadShard
from lmsteer.serving.vllm.checked_bases import CheckedBases
from lmsteer.steer.mix import Mix, Steering, row_by_row


class BeforeHead:
    """Which rows of the next pass are steered, and how.

    Attributes:
        rows: the steering of each steered request, by row.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Steering] = {}
        self._size, self._announced = 0, False
        self._mix: Mix | None = None
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
            self._mix = row_by_row([self.rows.get(row, ({}, {})) for row in range(size)], self._mix)
        self._announced = True

    def mix(self, h: Tensor, head: HeadShard) -> Mix | None:
        """The mix for the hidden states ``h`` (B, d) that reach the head; None if they are not steered.

        Raises:
            RuntimeError: the number of rows is not the announced one, so it is unknown which row is which request.
            WrongBaseError: a steer belongs to another base.
        """
        announced, self._announced = self._announced, False
        if not announced or not self._steers:
            return None
        if h.shape[0] != self._size:
            raise RuntimeError(f"{self._size} rows were announced to lmsteer, but {h.shape[0]} reached the head.")
        assert self._mix is not None
        self._bases.check(self._mix, head)
        return self._mix

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
