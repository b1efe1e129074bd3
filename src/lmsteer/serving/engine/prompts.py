"""The log-likelihoods of prompts under the steers of their requests, chunk by chunk as the prompts are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.model.head import Head
from lmsteer.reading.likelihood import next_token_log_likelihoods
from lmsteer.serving.engine.isolation import isolated
from lmsteer.serving.engine.logprobs import TokenLogprob, token_logprobs
from lmsteer.serving.engine.requests import GeneratedSequence
from lmsteer.steer.mix import row_by_row
from lmsteer.steer.strength import sizes_of


class _Part(NamedTuple):
    """A part of a prompt: hidden states (n, d), and the n tokens that they predict."""

    sequence: GeneratedSequence
    hidden: Tensor
    tokens: Sequence[int]


@torch.inference_mode()
def score_prompts(head: Head, sequences: Sequence[GeneratedSequence], hidden: Sequence[Tensor]) -> None:
    """Add the log-likelihoods of a chunk's next tokens to the sequences that want those of their prompts.

    A sequence whose logits overflow, or for which this fails, ends with an error.

    Args:
        head: the model's head.
        sequences: the sequences whose prompts are read.
        hidden: for each, the hidden states (n, d) of the chunk's n tokens of its prompt.
    """
    parts = [_Part(each, h, each.next_of_prompt(len(h))) for each, h in zip(sequences, hidden, strict=True)]
    parts = [_Part(each, h[: len(tokens)], tokens) for each, h, tokens in parts if tokens]
    for scored, results in isolated(partial(_scored, head), parts, lambda part, error: part.sequence.fail(error)):
        for part, logprobs in zip(scored, results, strict=True):
            if logprobs is None:
                part.sequence.fail_overflowed()
            else:
                part.sequence.extend_prompt(logprobs)


def _scored(head: Head, parts: Sequence[_Part]) -> list[list[TokenLogprob] | None]:
    """The log-likelihoods of each part's tokens; None where logits are not finite."""
    steering = [(part.sequence.request.steers, sizes_of(part.sequence.request.strengths)) for part in parts]
    owners = [row for row, part in enumerate(parts) for _ in part.tokens]
    targets = [token for part in parts for token in part.tokens]
    wanted = [part.sequence.request.num_logprobs or 0 for part in parts]
    results: list[list[TokenLogprob] | None] = [[] for _ in parts]
    mix, done = row_by_row(steering).for_rows(torch.tensor(owners)), 0
    for log_p in next_token_log_likelihoods(head, torch.cat([part.hidden for part in parts]), mix):
        piece = slice(done, done := done + len(log_p))
        finite = log_p.amax(-1).isfinite().tolist()
        logprobs = token_logprobs(log_p, targets[piece], max(wanted))
        for row, logprob, is_finite in zip(owners[piece], logprobs, finite, strict=True):
            own = results[row]
            if not is_finite:
                results[row] = None
            elif own is not None:
                own.append(logprob.likeliest(wanted[row]))
    return results
