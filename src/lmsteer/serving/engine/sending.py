"""Sending: each sequence is given its token of a step, and sends what that adds to its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.generation.decoder import Look
from lmsteer.generation.passes import Pass
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.serving.engine.isolation import isolated
from lmsteer.serving.engine.logprobs import token_logprobs
from lmsteer.serving.engine.requests import GeneratedSequence


class _Drawn(NamedTuple):
    """A sequence, its token, its logits (V,), whether a steer acted on it, and its line in the table of readings."""

    sequence: GeneratedSequence
    token: int
    logits: Tensor
    is_steered: bool
    values: Sequence[float]


def send(sequences: Sequence[GeneratedSequence], look: Look, parts: Sequence[tuple[Sequence[int], Pass]]) -> None:
    """Send the tokens of a step; a sequence for which that fails ends.

    Args:
        sequences: the sequences, in the order of the rows.
        look: their tokens.
        parts: the passes over some rows each.
    """
    for rows, done in parts:
        for row, logits in zip(rows, done.logits, strict=True):
            token, values = look.tokens[row][-1], next(iter(look.readings[row]), ())
            acts = look.acting[row][-1] if look.acting else any(sequences[row].request.strengths.values())
            drawn = _Drawn(sequences[row], token, logits, done.is_steered and acts, values)
            if drawn.token == OVERFLOW:
                drawn.sequence.fail_overflowed()
            elif not drawn.sequence.cancelled:
                isolated(_send, [drawn], _fail)


def _send(rows: Sequence[_Drawn]) -> None:
    for sequence, token, logits, is_steered, values in rows:
        top = sequence.request.num_logprobs
        logprob = None if top is None else token_logprobs(torch.log_softmax(logits[None].float(), -1), [token], top)[0]
        sequence.append(token, is_steered, logprob, values)


def _fail(drawn: _Drawn, error: LMSteerError) -> None:
    drawn.sequence.fail(error)
