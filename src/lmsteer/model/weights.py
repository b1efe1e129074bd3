"""Weights that something is added to for a while; afterwards they are what they were, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmsteer.errors import WrongBaseError


@contextmanager
@torch.no_grad()
def temporary_update(parameter: nn.Parameter, update: Tensor) -> Iterator[None]:
    """Add to a parameter within a ``with`` block; the former one is put back at its end.

    Raises:
        WrongBaseError: an update of another shape, or of weights that are no numbers.
    """
    former = parameter.data
    if not former.is_floating_point() or update.shape != former.shape:
        shape, own = tuple(update.shape), tuple(former.shape)
        raise WrongBaseError(f"there is an update for a layer of {shape}; the model's is {own}, {former.dtype}.")
    # Laid out as it was, which products are quick for.
    parameter.data = former.clone().copy_(former.float() + update.to(former.device, torch.float32))
    try:
        yield
    finally:
        parameter.data = former
