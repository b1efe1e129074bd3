"""The pass of the frozen LM over texts that leaves their rows (``rows``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.model.batching import TOKENS_PER_BATCH, length_buckets, run_in_halves, tokens_per_batch
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import begin_of, count_predicted, is_ended, own_tokens
from lmsteer.reading.rows import AFTER_PROMPT, HiddenRows, LabelledRows


def text_batches(ids: Sequence[Sequence[int]], tokens: int = TOKENS_PER_BATCH) -> list[list[int]]:
    """The batches of a pass, as indices of texts that have a token to predict.

    They are always the same for the same texts and number of tokens, so that an interrupted pass can be resumed.
    """
    readable = [i for i, text in enumerate(ids) if count_predicted(text)]
    return [[readable[j] for j in batch] for batch in length_buckets([ids[i] for i in readable], tokens)]


def compute_rows(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    """Run one batch of texts that have a token to predict through the model; in halves if memory is short.

    Hidden states and residuals stay on the device of the head.

    Raises:
        DataError: memory is short for a single text.
    """
    sizes, parts = zip(*run_in_halves(partial(_run, lm), ids), strict=True)
    return HiddenRows.join(parts, sizes) if len(parts) > 1 else parts[0]


def gather_rows(lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> Iterator[LabelledRows]:
    """The rows of all texts on the CPU, one batch at a time."""
    for batch in text_batches(ids, tokens_per_batch(lm.device)):
        yield compute_rows(lm, [ids[i] for i in batch]).labelled([texts[i] for i in batch]).to("cpu")


@torch.inference_mode()
def _run(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    h, target = lm.predicting(ids)
    if any(map(begin_of, ids)):
        own = own_tokens(ids).to(h.device)
        h, target = h[own], target[own]
    h = h.float()
    r, log_p = lm.head.residuals(h, target)
    text = torch.repeat_interleave(torch.tensor([count_predicted(tokens) for tokens in ids]))
    is_first, is_last = _ends(text)
    first = torch.full_like(text, -1)
    first[is_first] = torch.tensor([AFTER_PROMPT if begin_of(tokens) else tokens[0] for tokens in ids])
    is_end = is_last & torch.tensor([is_ended(lm, tokens) for tokens in ids])[text]
    return HiddenRows(h, r, log_p.cpu(), target.cpu(), is_end, first, text)


def _ends(text: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are the first of their text (N,), and which the last."""
    changes, edge = text[1:] != text[:-1], torch.ones(1, dtype=torch.bool)
    return torch.cat([edge, changes]), torch.cat([changes, edge])
