"""Aligned states: hidden states of two models that have read the same text up to the same character.

Two tokenizers cut a text at different places. Where a token of each ends at the same character, both models have read
the same characters, and their hidden states form a pair. Only sums over the pairs are kept, and a sample of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.lm import LM
from lmsteer.reading.encode import Encoding, encode_with_offsets
from lmsteer.util.progress import Progress, no_progress

# Texts that both models read before their states are paired.
_BLOCK = 128
# Hidden states of each model that are kept, to see which words the model expects.
_SAMPLE = 1024


@dataclass(frozen=True)
class AlignedStates:
    """N paired states of a source model (d₁) and a target model (d₂), on the CPU.

    Attributes:
        count: N.
        second_moment: E[h₂ h₂ᵀ] (d₂, d₂), float64.
        product: E[h₂ h₁ᵀ] (d₂, d₁), float64.
        source_sample: a sample of the source's states (n, d₁), float32.
        target_sample: the states of the target that belong to them (n, d₂), float32.
        source_ends: the source's states at the ends of texts (M, d₁), float32.
        target_ends: the target's states there (M, d₂), float32.
    """

    count: int
    second_moment: Tensor
    product: Tensor
    source_sample: Tensor
    target_sample: Tensor
    source_ends: Tensor
    target_ends: Tensor


def align_states(source: LM, target: LM, texts: Sequence[str], *, progress: Progress = no_progress) -> AlignedStates:
    """Let both models read texts, and pair their states.

    Raises:
        DataError: the texts give fewer than two pairs, or one is longer than a model's context.
        ModelError: a tokenizer that cannot tell which characters its tokens cover.
    """
    texts = [text for text in texts if text.strip()]
    sums = torch.zeros(target.hidden_size, target.hidden_size + source.hidden_size, dtype=torch.float64)
    sample: list[tuple[Tensor, Tensor]] = []
    ends: list[tuple[Tensor, Tensor]] = []
    count = 0
    with progress("reading texts with both models", len(texts), 0) as step:
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            h1, h2, is_end = _pair(_read(source, block), _read(target, block), block)
            sums += h2.double().T @ torch.hstack([h2, h1]).double()
            count += len(h1)
            some = slice(None, None, max(1, len(h1) * len(texts) // (_SAMPLE * len(block))))
            sample.append((h1[some].clone(), h2[some].clone()))
            ends.append((h1[is_end], h2[is_end]))
            step(len(block), "")
    if count < 2:
        raise DataError("there are too few texts: the two models have no two places in common.")
    second_moment, product = (sums / count).split([target.hidden_size, source.hidden_size], 1)
    joined = [torch.cat(parts) for pairs in (sample, ends) for parts in zip(*pairs, strict=True)]
    return AlignedStates(count, second_moment, product, *joined)


class _TextStates(NamedTuple):
    """The hidden states of one text.

    Attributes:
        rows: for each character that a token ends before, the row of the hidden state that has read up to there.
        h: the hidden states (T, d), float32 on the CPU.
    """

    rows: dict[int, int]
    h: Tensor


@torch.inference_mode()
def _read(lm: LM, texts: Sequence[str]) -> list[_TextStates]:
    encoded = [encode_with_offsets(lm, text, start=False, end=False) for text in texts]
    readable = [i for i, encoding in enumerate(encoded) if encoding.ids]
    longest = max(len(encoding.ids) for encoding in encoded)
    if longest > lm.max_length:
        raise DataError(f"a text of {longest} tokens is longer than the context of {lm.name}, {lm.max_length}.")
    states = [_TextStates({}, torch.zeros(0, lm.hidden_size)) for _ in texts]
    for batch in length_buckets([encoded[i].ids for i in readable]):
        indices = [readable[k] for k in batch]
        padded, mask = pad([encoded[i].ids for i in indices], lm.pad_id, lm.device)
        h = lm.hidden_states(padded, mask).float().cpu()
        for i, of_text in zip(indices, h, strict=True):
            states[i] = _TextStates(_rows_by_end(encoded[i]), of_text)
    return states


def _rows_by_end(encoding: Encoding) -> dict[int, int]:
    return {end: row for row, (begin, end) in enumerate(encoding.bounds) if end > begin}


def _pair(
    source: Sequence[_TextStates], target: Sequence[_TextStates], texts: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Paired states of the source (N, d₁) and the target (N, d₂), and which are at the end of a text (N,)."""
    pairs: list[tuple[Tensor, Tensor]] = []
    is_end: list[bool] = []
    for of_source, of_target, text in zip(source, target, texts, strict=True):
        places = sorted(of_source.rows.keys() & of_target.rows.keys())
        pairs.append(
            (
                of_source.h[[of_source.rows[place] for place in places]],
                of_target.h[[of_target.rows[place] for place in places]],
            )
        )
        is_end += [place == len(text) for place in places]
    h1, h2 = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return h1, h2, torch.tensor(is_end, dtype=torch.bool)
