"""Which rows of texts are kept beside their sums: those of the held-out texts, and of a sample of the others.

Both are the first texts by digest, so the choice does not depend on the order and the portions in which texts come.
Texts whose digests have the same first 64 bits are a group, such as both texts of a pair, and stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.reading.encoded_text import count_predicted
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
    """Split rows that are held out so far and more candidates into those that are held out now, and the others.

    Those that are held out are on the CPU, the others on the device of the candidates.
    """
    if not _may_enter([held_out], more, HELD_OUT_ROWS).any():
        return held_out, more  # the usual case once the limit is reached: nothing is copied
    still, newly = _first_by_digest((held_out, more), HELD_OUT_ROWS)
    others = LabelledRows.join([held_out[~still].to(more.h.device), more[~newly]])
    return LabelledRows.join([held_out[still], more[newly].to("cpu")]), others


def sample_limit(hidden_size: int) -> int:
    """How many rows of a model's hidden size the sample has at most."""
    return min(SAMPLE_ROWS, _SAMPLE_BYTES // (8 * hidden_size))


def reservoir(sample: Sequence[LabelledRows], more: Sequence[LabelledRows]) -> tuple[LabelledRows, ...]:
    """The sample after more rows were added, on the CPU, in blocks that are not too small."""
    hidden_size = next((block.h.shape[1] for block in (*sample, *more)), 1)
    limit = sample_limit(hidden_size)
    candidates = [(block, _may_enter(sample, block, limit)) for block in more]
    entering = [block if enters.all() else block[enters] for block, enters in candidates if enters.any()]
    if not entering:
        return tuple(sample)
    everything, blocks = (*sample, *entering), list[LabelledRows]()
    stays = _first_by_digest(everything, limit)
    for block, stay in zip(everything, stays, strict=True):
        if not stay.all():  # most blocks are complete, and are not copied
            block = block[stay]
        block = block.to("cpu")
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
    lengths = torch.tensor([count_predicted(ids[i]) for i in candidates], dtype=torch.int64)
    groups = torch.tensor([to_int64_pair(texts[i].digest)[0] for i in candidates], dtype=torch.int64)
    kept = _first_groups(groups, lengths, HELD_OUT_ROWS)
    return [i for i, yes in zip(candidates, kept.tolist(), strict=True) if yes]


def halves(texts: Sequence[LabelledText]) -> tuple[list[LabelledText], list[LabelledText]]:
    """The texts in order of digest, every other group of them."""
    ordered = sorted(texts, key=lambda text: text.digest)
    groups = [list(group) for _, group in groupby(ordered, key=lambda text: to_int64_pair(text.digest)[0])]
    first, second = (list(chain.from_iterable(groups[start::2])) for start in (0, 1))
    return first, second


def _may_enter(kept: Sequence[LabelledRows], more: LabelledRows, limit: int) -> Tensor:
    """Which rows (N,) of more texts may be among the first, up to a limit, given those that are among them so far.

    Once the limit is reached these are few, and none in most batches: no group that comes after all that are kept is.
    """
    if sum(map(len, kept)) < limit:
        return torch.ones(len(more), dtype=torch.bool)
    last = max(int(block.digest[:, 0].max()) for block in kept if len(block))
    return more.digest[:, 0] <= last


def _first_by_digest(blocks: Sequence[LabelledRows], limit: int) -> Sequence[Tensor]:
    """For each block, which rows (N,) belong to the first groups by digest, up to the one that reaches the limit.

    A group is kept if the groups before it have fewer rows than the limit. Once one is dropped, all later ones are:
    dropping is monotone in the order of digests, hence independent of the order and portions in which texts come.
    """
    if not blocks:
        return []
    groups = torch.cat([block.digest[:, 0] for block in blocks])
    kept = _first_groups(groups, torch.ones_like(groups), limit)
    return kept.split([len(block) for block in blocks])


def _first_groups(groups: Tensor, lengths: Tensor, limit: int) -> Tensor:
    """Which texts or rows (N,) belong to the first groups (N,), up to the group that reaches the limit of rows."""
    _, index = torch.unique(groups, return_inverse=True)
    sizes = torch.zeros(int(index.max()) + 1 if len(index) else 0, dtype=torch.int64).index_add_(0, index, lengths)
    return (sizes.cumsum(0) - sizes < limit)[index]
