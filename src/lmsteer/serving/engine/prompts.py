"""The log-likelihoods of prompts under the steers of their requests, chunk by chunk as the prompts are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.model.head import Head
from lmsteer.reading.likelihood import next_token_log_likelihoods
from lmsteer.serving.engine.requests import GeneratedSequence, token_logprobs
from lmsteer.steer.mix import row_by_row

OVERFLOW = "the logits overflowed at these strengths; lower them."


@torch.inference_mode()
def score_prompts(head: Head, sequences: Sequence[GeneratedSequence], hidden: Sequence[Tensor]) -> None:
    """Add the log-likelihoods of a chunk's next tokens to the sequences that want those of their prompts.

    A sequence whose logits overflow ends with an error.

    Args:
        head: the model's head.
        sequences: the sequences whose prompts are read.
        hidden: for each, the hidden states (n, d) of the chunk's n tokens of its prompt.
    """
    scored = [(sequence, h, sequence.next_of_prompt(len(h))) for sequence, h in zip(sequences, hidden, strict=True)]
    scored = [(sequence, h[: len(tokens)], tokens) for sequence, h, tokens in scored if tokens]
    if not scored:
        return
    owners = [sequence for sequence, _, tokens in scored for _ in tokens]
    targets = [token for _, _, tokens in scored for token in tokens]
    steering = [(sequence.request.steers, sequence.request.strengths) for sequence, *_ in scored]
    rows = torch.tensor([row for row, (_, _, tokens) in enumerate(scored) for _ in tokens])
    mix, done = row_by_row(steering).for_rows(rows), 0
    for log_p in next_token_log_likelihoods(head, torch.cat([h for _, h, _ in scored]), mix):
        part = slice(done, done := done + len(log_p))
        _add(log_p, owners[part], targets[part])


def _add(log_p: Tensor, owners: Sequence[GeneratedSequence], targets: Sequence[int]) -> None:
    """Add the records of tokens (N,) with log-likelihoods (N, V) to the sequences whose prompts they stand in (N,)."""
    most = max(sequence.request.num_logprobs or 0 for sequence in owners)
    finite = log_p.amax(-1).isfinite().tolist()
    for sequence, logprob, is_finite in zip(owners, token_logprobs(log_p, targets, most), finite, strict=True):
        if is_finite:
            sequence.append_to_prompt(logprob.likeliest(sequence.request.num_logprobs or 0))
        elif not sequence.cancelled:
            sequence.fail(SteerError(OVERFLOW))
            sequence.cancel()
