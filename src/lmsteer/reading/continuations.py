"""The likelihood of continuations of contexts, as benchmarks of multiple choice and of minimal pairs ask for it.

The head computes the rows that predict a continuation and no others: where contexts are long, as with worked examples
in front of a question, most of a benchmark's time is the head's otherwise. What several continuations have in common
but for their last token (single letters after one question) is read once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.generation.writing import NotFiniteError
from lmsteer.model.batching import length_buckets, pad, run_in_halves, tokens_per_batch
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import next_token_log_likelihoods
from lmsteer.steer.mix import Mix
from lmsteer.util.progress import Progress, no_progress


class Scored(NamedTuple):
    """What is known of a continuation.

    Attributes:
        log_p: its log-likelihood after its context, in nats, summed over its tokens.
        is_greedy: whether each of its tokens is the likeliest one, so that greedy generation writes it.
    """

    log_p: float
    is_greedy: bool


@torch.inference_mode()
def score_continuations(
    lm: LM,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    mix: Mix,
    *,
    progress: Progress = no_progress,
) -> list[Scored]:
    """Score continuations under steers. What is longer than the model's context loses the beginning of its context.

    Args:
        lm: the steers' base.
        pairs: the ids of each context, and those of its continuation, at least one each.
        mix: the steers, with one strength each; no eos component acts.
        progress: reports how many continuations are scored.

    Returns:
        The scores, in the order of the pairs.

    Raises:
        DataError: a context or a continuation is empty, or a continuation is longer than the model's context; or memory
            is short for a single text.
        NotFiniteError: the logits are not finite numbers.
        SteerError, WrongBaseError: as ``LM.check_base``.
    """
    lm.check_base(mix)
    wanted: dict[tuple[int, ...], list[int]] = {}  # by what the model reads: all tokens but the last
    for place, (context, continuation) in enumerate(pairs):
        if not context or not 0 < len(continuation) <= lm.max_length:
            raise DataError(
                f"continuation {place + 1} has {len(continuation)} tokens after {len(context)}: there must be one or "
                f"more of both, and no more than the model's context, {lm.max_length}, to score."
            )
        wanted.setdefault(tuple([*context, *continuation][:-1][-lm.max_length :]), []).append(place)
    found, read = dict[int, Scored](), list(wanted)
    with progress("scoring continuations", len(pairs), 0) as step:
        for batch in length_buckets(read, tokens_per_batch(lm.device)):
            own = [(read[i], place, pairs[place][1]) for i in batch for place in wanted[read[i]]]
            h = _states(lm, [read[i] for i in batch], mix)
            rows = torch.cat([h[ids][len(ids) - len(continuation) :] for ids, _, continuation in own])
            targets = torch.tensor([token for *_, continuation in own for token in continuation])
            scores = _scored(lm, rows, targets, mix).split([len(continuation) for *_, continuation in own])
            for (_, place, _), score in zip(own, scores, strict=True):
                found[place] = Scored(float(score[:, 0].sum()), bool(score[:, 1].all()))
                if math.isnan(found[place].log_p):
                    raise NotFiniteError(
                        f"continuation {place + 1}: the model's logits are not finite numbers under {mix!r}: lower the "
                        "strength, or load the model in another dtype (bfloat16 or float32)."
                    )
            step(len(own), "")
    return [found[place] for place in range(len(pairs))]


def _states(lm: LM, ids: Sequence[tuple[int, ...]], mix: Mix) -> dict[tuple[int, ...], Tensor]:
    """The hidden states (T, d) of each text, under the steers inside the model."""

    def read(some: Sequence[tuple[int, ...]]) -> Tensor:
        padded, mask = pad(some, lm.pad_id, lm.device)
        return lm.before_head(mix, input_ids=padded, attention_mask=mask)

    states = [row for _, h in run_in_halves(read, ids) for row in h]
    return {own: h[: len(own)] for own, h in zip(ids, states, strict=True)}


def _scored(lm: LM, h: Tensor, targets: Tensor, mix: Mix) -> Tensor:
    """The log-likelihood of each target, and 1 where it is the likeliest token, (N, 2), on the CPU."""
    scores, start = [], 0
    for log_p in next_token_log_likelihoods(lm.head, h, mix):
        own = targets[start : start + len(log_p), None].to(log_p.device)
        start += len(log_p)
        scores.append(torch.cat([log_p.gather(1, own), log_p.argmax(1, keepdim=True) == own], 1).cpu())
    return torch.cat(scores)
