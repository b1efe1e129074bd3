"""Sending: each sequence is given its token of a step, and sends what that adds to its text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.serving.engine.isolation import isolated
from lmsteer.serving.engine.requests import GeneratedSequence, token_logprobs


class _Drawn(NamedTuple):
    """A sequence, its token and its logits (V,)."""

    sequence: GeneratedSequence
    token: int
    logits: Tensor


def send(sequences: Sequence[GeneratedSequence], tokens: Sequence[int], logits: Tensor, is_steered: bool) -> None:
    """Send the tokens of a step; a sequence for which that fails ends.

    Args:
        sequences: the sequences.
        tokens: the token of each; ``OVERFLOW`` where its logits are not finite numbers.
        logits: their logits (B, V).
        is_steered: whether the head was steered.
    """
    for drawn in map(_Drawn, sequences, tokens, logits):
        if drawn.token == OVERFLOW:
            drawn.sequence.fail_overflowed()
        elif not drawn.sequence.cancelled:
            isolated(partial(_send, is_steered), [drawn], _fail)


def _send(is_steered: bool, rows: Sequence[_Drawn]) -> None:
    for sequence, token, logits in rows:
        top = sequence.request.num_logprobs
        logprob = None if top is None else token_logprobs(torch.log_softmax(logits[None].float(), -1), [token], top)[0]
        sequence.append(token, is_steered and any(sequence.request.strengths.values()), logprob)


def _fail(drawn: _Drawn, error: LMSteerError) -> None:
    drawn.sequence.fail(error)
