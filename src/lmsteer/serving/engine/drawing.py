"""Drawing: the logits of a step become one token for each sequence, which sends what it adds to its text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.sampling import draw
from lmsteer.serving.engine.isolation import isolated
from lmsteer.serving.engine.requests import GeneratedSequence, token_logprobs


class _Row(NamedTuple):
    """A sequence and its logits (V,)."""

    sequence: GeneratedSequence
    logits: Tensor


def draw_and_send(sequences: Sequence[GeneratedSequence], logits: Tensor, is_steered: bool) -> None:
    """Draw one token for each sequence from its logits (B, V), and send it; a sequence for which that fails ends.

    Args:
        sequences: the sequences.
        logits: their logits.
        is_steered: whether the head was steered.
    """
    finite = logits.amax(-1).isfinite().tolist()
    # Those with the same sampling are drawn together.
    groups: dict[SamplingConfig, list[_Row]] = {}
    for sequence, row, is_finite in zip(sequences, logits, finite, strict=True):
        if not is_finite:
            sequence.fail_overflowed()
        elif not sequence.cancelled:
            groups.setdefault(sequence.request.sampling, []).append(_Row(sequence, row))
    for sampling, rows in groups.items():
        for drawn, tokens in isolated(partial(_draw, sampling), rows, _fail):
            for row, token in zip(drawn, tokens, strict=True):
                isolated(partial(_send, token, is_steered), [row], _fail)


def _draw(sampling: SamplingConfig, rows: Sequence[_Row]) -> list[int]:
    noise = torch.stack([row.sequence.noise for row in rows])
    tokens: list[int] = draw(torch.stack([row.logits for row in rows]), noise, sampling).tolist()
    return tokens


def _send(token: int, is_steered: bool, rows: Sequence[_Row]) -> None:
    for sequence, logits in rows:
        top = sequence.request.num_logprobs
        logprob = None if top is None else token_logprobs(torch.log_softmax(logits[None].float(), -1), [token], top)[0]
        sequence.append(token, is_steered and any(sequence.request.strengths.values()), logprob)


def _fail(row: _Row, error: LMSteerError) -> None:
    row.sequence.fail(error)
