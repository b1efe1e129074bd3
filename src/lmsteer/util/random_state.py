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


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw on one device from a seed within a ``with`` block; no other device's random state is touched."""
    with forked_random_state([device]):
        if device.type == "cuda":
            torch.cuda.default_generators[
                torch.cuda.current_device() if device.index is None else device.index
            ].manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield
