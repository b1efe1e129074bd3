"""The order of examples: batches of like length, so that little time goes to padding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler[int]):
    """Indices such that every batch has examples of about one length; the order of batches is drawn for each epoch."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Told by accelerate."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        drawn = random.Random(hash((self._seed, self._epoch)))
        order = sorted(range(len(self._lengths)), key=lambda i: (self._lengths[i], drawn.random()))
        batches = [order[k : k + self._batch] for k in range(0, len(order), self._batch)]
        # The one that is not full goes last, or it would shift the others' borders.
        rest = [batches.pop()] if len(batches[-1]) < self._batch else []
        drawn.shuffle(batches)
        return iter([i for batch in [*batches, *rest] for i in batch])
