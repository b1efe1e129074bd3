"""Batches by length: texts of like length together, so that little of the model's time goes to padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

# Products of five hundred rows reach a CPU's full rate; larger batches have more padding in them.
TOKENS_PER_BATCH = 512


def length_buckets(ids: Sequence[Sequence[int]], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Indices of texts, in batches whose padded size stays within ``tokens`` (or of one text, if longer).

    The same texts make the same batches in whatever order they come.
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
    """Ids (B, T) padded on one side, and their attention mask (B, T)."""
    width = max(map(len, ids))

    def filled(row: Sequence[int], value: int) -> list[int]:
        spare = [value] * (width - len(row))
        return [*row, *spare] if side == "right" else [*spare, *row]

    padded, mask = [filled(row, padding) for row in ids], [filled([1] * len(row), 0) for row in ids]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)
