"""The likelihood of texts as a function of strength: one pass of the model, whatever the number of strengths.

Published code runs a copy of the text through the model for every strength; as ``z(s) = z₀ + s z₁`` (LM-Steer, Han et
al., ACL 2024, section 5), the hidden states of one pass serve them all, and all steers. What is longer than the
model's context is read in windows that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets
from lmsteer.model.lm import LM
from lmsteer.reading.sweep import directions_of, sweep_texts
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


class Window(NamedTuple):
    """A part of a text that is read at once: tokens ``start`` to ``end``, of which those from ``first`` on are told."""

    start: int
    end: int
    first: int


def windows(length: int, size: int) -> Iterator[Window]:
    """Windows of ``size`` tokens over a text of ``length``: each token but the first is told once.

    Where a text is cut, half a window or more comes before what is told.
    """
    told = 1
    while told < length:
        end = min(told + size - size // 2, length) if told > 1 else min(size, length)
        yield Window(max(end - size, 0), end, told)
        told = end


@torch.inference_mode()
def steered_log_likelihoods(
    lm: LM,
    ids: Sequence[Sequence[int]],
    steers: Sequence[Steer],
    strengths: Sequence[float],
    *,
    window: int | None = None,
    progress: Progress = no_progress,
) -> list[Tensor]:
    """Log-likelihoods (K, S, T - 1) of a text's tokens after its first, for each text.

    Each of K steers is taken alone, at each of S strengths; its end part acts on the end-of-text token at a text's end.

    Args:
        lm: the steers' base.
        ids: of the texts.
        steers: of any form.
        strengths: of the steers.
        window: tokens that are read at once, at most; the model's context if None.
        progress: what to tell of the work.

    Raises:
        DataError: no strengths, a window of another size than from 2 to the model's context, or memory is short.
        SteerError: a strength that is not a finite number.
        WrongBaseError: a steer of another base.
    """
    if not strengths:
        raise DataError("no strengths to read texts at.")
    for steer in steers:
        lm.check_base(Mix({"s": steer}, {"s": strengths}))  # which refuses what is not a finite number
    size = lm.max_length if window is None else window
    if not 2 <= size <= lm.max_length:
        raise DataError(f"a window of {size} tokens; it must have from 2 to the model's {lm.max_length}.")
    directions = directions_of(lm.head, steers)
    parts = [(text, part) for text, tokens in enumerate(ids) for part in windows(len(tokens), size)]
    pieces = [ids[text][part.start : part.end] for text, part in parts]
    found = [torch.zeros(len(steers), len(strengths), max(len(tokens) - 1, 0)) for tokens in ids]
    with progress("reading texts", len(parts), 0) as step:
        for batch in length_buckets(pieces):
            h, y = _predicting(lm, [pieces[i] for i in batch])
            told, is_end = _places(lm, [(ids[parts[i][0]], parts[i][1]) for i in batch])
            lines = sweep_texts(lm.head, h[told], y[told], is_end[told], directions, list(strengths))
            lengths = [parts[i][1].end - parts[i][1].first for i in batch]
            for i, line in zip(batch, lines.split(lengths, dim=2), strict=True):
                text, part = parts[i]
                found[text][:, :, part.first - 1 : part.end - 1] = line
            step(len(batch), "")
    return found


@torch.inference_mode()
def log_likelihoods(lm: LM, ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-likelihoods (T - 1,) of a text's tokens after its first under the unsteered model, for each text.

    What is longer than the model's context is read in windows, as in ``steered_log_likelihoods``.
    """
    parts = [(text, part) for text, tokens in enumerate(ids) for part in windows(len(tokens), lm.max_length)]
    pieces = [ids[text][part.start : part.end] for text, part in parts]
    found = [torch.zeros(max(len(tokens) - 1, 0)) for tokens in ids]
    for batch in length_buckets(pieces):
        h, y = _predicting(lm, [pieces[i] for i in batch])
        lines = lm.head.log_likelihood(h, y).cpu().split([len(pieces[i]) - 1 for i in batch])
        for i, line in zip(batch, lines, strict=True):
            text, part = parts[i]
            found[text][part.first - 1 : part.end - 1] = line[part.first - part.start - 1 :]
    return found


def _predicting(lm: LM, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    try:
        return lm.predicting(ids)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        longest = max(map(len, ids))
        raise DataError(f"out of memory on {longest} tokens at once: read in smaller windows, --window.") from error


def _places(lm: LM, parts: Sequence[tuple[Sequence[int], Window]]) -> tuple[Tensor, Tensor]:
    """Of the predicted tokens (N,) of windows of some texts: which are told, and which are the end of their text."""
    told, is_end = [], []
    for tokens, window in parts:
        place = torch.arange(window.start + 1, window.end)
        told.append(place >= window.first)
        is_end.append((place == len(tokens) - 1) & (tokens[-1] == lm.end_id))
    return torch.cat(told), torch.cat(is_end)
