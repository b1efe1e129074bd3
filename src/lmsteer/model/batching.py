"""Batches by length: texts of similar lengths together, so that little of the model's time goes to padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

# Products of five hundred rows reach a CPU's full rate; larger batches have more padding in them.
TOKENS_PER_BATCH = 512


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
