"""The order of training examples: batches of similar lengths, so that little time goes to padding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from lmsteer.util.seeds import stable_hash


class LengthGroupedSampler(Sampler[int]):
    """Yields indices such that the examples of a batch have similar lengths; each epoch has its own order of batches.

    transformers' sampler of this name would do, but its order depends on what its generator has drawn before, so that a
    run could not be resumed at an epoch.

    Args:
        lengths: the length of each example.
        batch: examples a batch.
        seed: the seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate calls this."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(stable_hash(self._seed, self._epoch))
        order = sorted(range(len(self._lengths)), key=lambda i: (self._lengths[i], rng.random()))
        batches = [order[k : k + self._batch] for k in range(0, len(order), self._batch)]
        # A last batch that is not full stays last: elsewhere it would shift the borders of the others.
        rest = [batches.pop()] if batches and len(batches[-1]) < self._batch else []
        rng.shuffle(batches)
        return iter([i for batch in [*batches, *rest] for i in batch])
