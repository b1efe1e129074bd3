"""Paired states: what two models make of the same texts, wherever both have a token end.

Two tokenizers cut a text in other places, but where a token of each ends at the same character both models have read
the same: their hidden states are a pair. Of the pairs, only sums are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.util.progress import Progress, no_progress

# Texts that are run at once through both models.
_BLOCK = 128
# Hidden states of each model that are kept, to see which words it expects.
_SAMPLE = 1024


@dataclass(frozen=True)
class AlignedStates:
    """N paired states of a source (d₁) and a target (d₂), float64 on the CPU.

    Attributes:
        count: N.
        second_moment: E[h₂ h₂ᵀ] (d₂, d₂).
        product: E[h₂ h₁ᵀ] (d₂, d₁).
        source_sample: some states of the source, float32 (n, d₁).
        target_sample: those of the target (n, d₂).
        source_ends: of the source, where texts end (M, d₁).
        target_ends: of the target (M, d₂).
    """

    count: int
    second_moment: Tensor
    product: Tensor
    source_sample: Tensor
    target_sample: Tensor
    source_ends: Tensor
    target_ends: Tensor


def align_states(source: LM, target: LM, texts: Sequence[str], *, progress: Progress = no_progress) -> AlignedStates:
    """Run texts through both models.

    Raises:
        DataError: texts that give less than two pairs, or one longer than a model's context.
        ModelError: a tokenizer that cannot tell where its tokens stand.
    """
    texts = [text for text in texts if text.strip()]
    sums = torch.zeros(target.hidden_size, target.hidden_size + source.hidden_size, dtype=torch.float64)
    kept: list[tuple[Tensor, Tensor]] = []
    ends: list[tuple[Tensor, Tensor]] = []
    count = 0
    with progress("reading texts with both models", len(texts), 0) as step:
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            h1, h2, is_end = _paired(
                _states(source, block), _states(target, block), block, source.hidden_size, target.hidden_size
            )
            sums += h2.double().T @ torch.hstack([h2, h1]).double()
            count += len(h1)
            some = slice(None, None, max(1, len(h1) * len(texts) // (_SAMPLE * len(block))))
            kept.append((h1[some], h2[some]))
            ends.append((h1[is_end], h2[is_end]))
            step(len(block), "")
    if count < 2:
        raise DataError("the texts are too few: both models must have read something of them alike.")
    second_moment, product = (sums / count).split([target.hidden_size, source.hidden_size], 1)
    joined = [torch.cat(parts) for pairs in (kept, ends) for parts in zip(*pairs, strict=True)]
    return AlignedStates(count, second_moment, product, *joined)


States = list[dict[int, Tensor]]


@torch.inference_mode()
def _states(lm: LM, texts: Sequence[str]) -> States:
    """For each text its hidden states (d,), by the character that they have read up to."""
    encoded = [encode_with_offsets(lm, text, start=False, end=False) for text in texts]
    read = [i for i, (ids, _) in enumerate(encoded) if ids]
    longest = max(len(ids) for ids, _ in encoded)
    if longest > lm.max_length:
        raise DataError(f"a text of {longest} tokens is longer than the context of {lm.name}, {lm.max_length}.")
    found: States = [{} for _ in texts]
    for batch in length_buckets([encoded[i][0] for i in read]):
        rows = [read[k] for k in batch]
        padded, mask = pad([encoded[i][0] for i in rows], lm.pad_id, lm.device)
        h = lm.hidden_states(padded, mask).float().cpu()
        for i, row in zip(rows, h, strict=True):
            bounds = encoded[i][1]
            found[i] = {end: row[k].clone() for k, (begin, end) in enumerate(bounds) if end > begin}
    return found


def _paired(source: States, target: States, texts: Sequence[str], d1: int, d2: int) -> tuple[Tensor, Tensor, Tensor]:
    """States of the source (N, d₁) and the target (N, d₂) that have read as far, and which are ends of texts (N,)."""
    places = [(i, end) for i in range(len(texts)) for end in sorted(source[i].keys() & target[i].keys())]
    h1 = _stacked([source[i][end] for i, end in places], d1)
    h2 = _stacked([target[i][end] for i, end in places], d2)
    return h1, h2, torch.tensor([end == len(texts[i]) for i, end in places], dtype=torch.bool)


def _stacked(rows: list[Tensor], width: int) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, width)
