"""Batches by length: texts of similar lengths together, so that little of the model's time goes to padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.util.compat import is_out_of_memory
from lmsteer.util.devices import is_host
from lmsteer.util.progress import notice

S = TypeVar("S", bound=Sequence[int])
T = TypeVar("T")

# Products of five hundred rows reach a CPU's full rate; larger batches have more padding in them. An accelerator takes
# thousands of rows in the time of its kernels' launches.
TOKENS_PER_BATCH, _ON_AN_ACCELERATOR = 512, 8192


def tokens_per_batch(device: torch.device) -> int:
    """How many tokens a forward pass without gradients takes at a time on a device."""
    return TOKENS_PER_BATCH if is_host(device) else _ON_AN_ACCELERATOR


def length_buckets(ids: Sequence[Sequence[int]], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Yield indices of texts, in batches of at most ``tokens`` tokens with padding; a longer text is a batch by itself.

    The same texts make the same batches, whatever their order.
    """
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), list(ids[i])))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(ids[i]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def run_in_halves(run: Callable[[Sequence[S]], T], ids: Sequence[S]) -> list[tuple[int, T]]:
    """Run a batch of texts; if memory is short, run its halves, and halves of these.

    Args:
        run: runs some texts, given their ids.
        ids: of the texts.

    Returns:
        The number of texts and the result of each part, in the order of the texts.

    Raises:
        DataError: memory is short for a single text.
    """
    try:
        return [(len(ids), run(ids))]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(ids) == 1:
            raise DataError(
                f"out of memory on {len(ids[0])} tokens at once: cut the texts (--max-tokens), read them in smaller "
                "windows (--window), or free memory."
            ) from error
    half = len(ids) // 2
    notice(f"out of memory on a batch of {len(ids)} texts; trying it in halves ...")
    return [*run_in_halves(run, ids[:half]), *run_in_halves(run, ids[half:])]


def pad(
    ids: Sequence[Sequence[int]], padding: int, device: torch.device, side: Literal["left", "right"] = "right"
) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on one side, and their attention mask (B, T)."""
    width = max(map(len, ids))

    def padded_row(row: Sequence[int], value: int) -> list[int]:
        gap = [value] * (width - len(row))
        return [*row, *gap] if side == "right" else [*gap, *row]

    padded, mask = [padded_row(row, padding) for row in ids], [padded_row([1] * len(row), 0) for row in ids]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)
