"""The pass of the frozen LM over texts that leaves their rows (``rows``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.lm import LM
from lmsteer.reading.rows import HiddenRows, LabelledRows


def text_batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """The batches of a pass, as indices of texts that have a token to predict.

    They are always the same for the same texts, so that an interrupted pass can be resumed.
    """
    readable = [i for i, text in enumerate(ids) if len(text) > 1]
    return [[readable[j] for j in batch] for batch in length_buckets([ids[i] for i in readable])]


def compute_rows(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    """Run one batch of texts (their ids, at least two each) through the model; in halves if memory is short.

    Raises:
        DataError: memory is short for a single text.
    """
    sizes, parts = zip(*run_in_halves(partial(_run, lm), ids), strict=True)
    return HiddenRows.join(parts, sizes) if len(parts) > 1 else parts[0]


def gather_rows(lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> Iterator[LabelledRows]:
    """The rows of all texts, one batch at a time."""
    for batch in text_batches(ids):
        yield compute_rows(lm, [ids[i] for i in batch]).labelled([texts[i] for i in batch])


@torch.inference_mode()
def _run(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    h, target = lm.predicting(ids)
    h = h.float()
    r, log_p = lm.head.residuals(h, target)
    text = torch.repeat_interleave(torch.tensor([len(tokens) - 1 for tokens in ids]))
    is_first, is_last = _ends(text)
    first = torch.full_like(text, -1)
    first[is_first] = torch.tensor([tokens[0] for tokens in ids])
    end = lm.end_id
    is_end = is_last & (target.cpu() == (-1 if end is None else end))
    return HiddenRows(h.cpu(), r.cpu(), log_p.cpu(), target.cpu(), is_end, first, text)


def _ends(text: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are the first of their text (N,), and which the last."""
    changes, edge = text[1:] != text[:-1], torch.ones(1, dtype=torch.bool)
    return torch.cat([edge, changes]), torch.cat([changes, edge])
