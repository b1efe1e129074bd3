"""Which rows of texts are kept beside their sums: those of the held-out texts, and of a sample of the others.

Both are the first texts by digest, so the choice does not depend on the order and the portions in which texts come.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.reading.rows import LabelledRows, to_int64_pair

# One text in this many is a candidate; of the candidates, the first by digest are held out, up to so many rows.
HELD_OUT_SHARE = 8
HELD_OUT_ROWS = 8192
# Of the other texts, the rows of the first by digest are the sample, up to so many rows and so many bytes.
SAMPLE_ROWS = 49152
_SAMPLE_BYTES = 2**29
# Blocks of the sample that are smaller than this are joined.
_BLOCK_ROWS = 1024


def split_held_out(held_out: LabelledRows, more: LabelledRows) -> tuple[LabelledRows, LabelledRows]:
    """Split rows that are held out so far and more candidates into those that are held out now, and the others."""
    still, newly = _first_by_digest((held_out, more), HELD_OUT_ROWS)
    others = LabelledRows.join([held_out[~still], more[~newly]])
    if not newly.any():
        return held_out, others  # the usual case once the limit is reached: nothing is copied
    return LabelledRows.join([held_out[still], more[newly]]), others


def reservoir(sample: Sequence[LabelledRows], more: Sequence[LabelledRows]) -> tuple[LabelledRows, ...]:
    """The sample after more rows were added, in blocks that are not too small."""
    everything, blocks = (*sample, *more), list[LabelledRows]()
    hidden_size = next((block.h.shape[1] for block in everything), 1)
    stays = _first_by_digest(everything, min(SAMPLE_ROWS, _SAMPLE_BYTES // (8 * hidden_size)))
    for block, stay in zip(everything, stays, strict=True):
        if not stay.all():  # most blocks are complete, and are not copied
            block = block[stay]
        if blocks and len(blocks[-1]) + len(block) <= _BLOCK_ROWS:
            block = LabelledRows.join([blocks.pop(), block])
        blocks.append(block)
    return tuple(block for block in blocks if len(block))


def is_candidate(digest: Tensor) -> Tensor:
    """Whether texts of these digests (N, 2) are candidates for being held out: one in eight is."""
    return digest[:, 0] < -(1 << 63) + (1 << 64) // HELD_OUT_SHARE


def held_out_of(texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the texts that a fit on all of these readable texts (with their ids) holds out, in order of digest."""
    order = sorted((text.digest, i) for i, text in enumerate(texts))
    digests = torch.tensor([to_int64_pair(digest) for digest, _ in order], dtype=torch.int64).reshape(-1, 2)
    candidates = [i for (_, i), yes in zip(order, is_candidate(digests).tolist(), strict=True) if yes]
    lengths = torch.tensor([len(ids[i]) - 1 for i in candidates], dtype=torch.int64)
    return candidates[: int((lengths.cumsum(0) - lengths < HELD_OUT_ROWS).sum())]


def _first_by_digest(blocks: Sequence[LabelledRows], limit: int) -> Sequence[Tensor]:
    """For each block, which rows (N,) belong to the first texts by digest, up to the text that reaches the limit.

    A text is kept if the texts before it have fewer rows than the limit. Once a text is dropped, all later ones are:
    dropping is monotone in the order of digests, hence independent of the order and portions in which texts come.
    """
    if not blocks:
        return []
    _, index = torch.unique(torch.cat([block.digest for block in blocks]), dim=0, return_inverse=True)
    lengths = torch.bincount(index)
    return (lengths.cumsum(0) - lengths < limit)[index].split([len(block) for block in blocks])
