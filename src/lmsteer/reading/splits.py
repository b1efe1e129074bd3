"""Which rows of texts are kept beside their sums: those of held-out texts, and of a sample of the others.

Both are of the first texts by digest, so that in whatever order and portions texts come, the same are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.reading.rows import LabelledRows, to_int64_pair

# One text in this many is a candidate for being held out; of those, the first by digest, till there are so many rows.
HELD_OUT_SHARE = 8
HELD_OUT_ROWS = 8192
# Of the other texts, too, the rows of the first by digest are kept, till there are so many, or so many bytes of them.
SAMPLE_ROWS = 49152
_SAMPLE_BYTES = 2**29
# Smaller blocks of the sample are joined.
_BLOCK_ROWS = 1024


def split_held_out(kept: LabelledRows, more: LabelledRows) -> tuple[LabelledRows, LabelledRows]:
    """Of the rows held out so far and more candidates, those that are held out, and the others."""
    old, new = _stay((kept, more), HELD_OUT_ROWS)
    others = LabelledRows.join([kept[~old], more[~new]])
    if not new.any():
        return kept, others  # the usual case once the limit is reached; the rows kept are not copied
    return LabelledRows.join([kept[old], more[new]]), others


def reservoir(sample: Sequence[LabelledRows], more: Sequence[LabelledRows]) -> tuple[LabelledRows, ...]:
    """What is kept of a sample when more rows come, in blocks that are not too small."""
    everything, blocks = (*sample, *more), list[LabelledRows]()
    hidden_size = next((block.h.shape[1] for block in everything), 1)
    stays = _stay(everything, min(SAMPLE_ROWS, _SAMPLE_BYTES // (8 * hidden_size)))
    for block, stay in zip(everything, stays, strict=True):
        if not stay.all():  # blocks that stay whole, which most do, are not copied
            block = block[stay]
        if blocks and len(blocks[-1]) + len(block) <= _BLOCK_ROWS:
            block = LabelledRows.join([blocks.pop(), block])
        blocks.append(block)
    return tuple(block for block in blocks if len(block))


def is_candidate(digest: Tensor) -> Tensor:
    """Whether texts of these digests (N, 2) may be held out: one in eight, whatever else is fitted."""
    return digest[:, 0] < -(1 << 63) + (1 << 64) // HELD_OUT_SHARE


def held_out_of(texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> list[int]:
    """Which of these readable texts (with their ids) a fit on all of them holds out, in order of digest."""
    order = sorted((text.digest, i) for i, text in enumerate(texts))
    digests = torch.tensor([to_int64_pair(digest) for digest, _ in order], dtype=torch.int64).reshape(-1, 2)
    candidates = [i for (_, i), yes in zip(order, is_candidate(digests).tolist(), strict=True) if yes]
    lengths = torch.tensor([len(ids[i]) - 1 for i in candidates], dtype=torch.int64)
    return candidates[: int((lengths.cumsum(0) - lengths < HELD_OUT_ROWS).sum())]


def _stay(blocks: Sequence[LabelledRows], limit: int) -> Sequence[Tensor]:
    """For each block, whether its rows (N,) are of the first texts, whole ones up to that which reaches the limit.

    A text is kept if those before it have fewer rows than the limit. So one that is dropped leaves enough rows
    behind to have every later one dropped too: in whatever order and portions texts come, the same are kept.
    """
    if not blocks:
        return []
    _, index = torch.unique(torch.cat([block.digest for block in blocks]), dim=0, return_inverse=True)
    lengths = torch.bincount(index)
    return (lengths.cumsum(0) - lengths < limit)[index].split([len(block) for block in blocks])
