"""Random states that a block of code may change, and that are restored after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forked_random_state(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restore torch's random states after a ``with`` block: that of the CPU, and those of the given CUDA devices.

    Without a list of devices ``torch.random.fork_rng`` reads the state of every visible GPU, and so opens a context
    of half a gigabyte on each, in every process of a launch.
    """
    cuda = {device for device in devices if device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda, key=str)):
        yield
