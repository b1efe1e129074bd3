"""The log-likelihood of finished continuations under the unsteered model, by a pass of their own.

A steer in front of the head leaves the hidden states before it as they are: the decoder scores as it writes. One that
acts inside the model does not: its continuations are read once more, all of their tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmsteer.generation.backends import backend_for
from lmsteer.generation.prefill import read_prompts
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM


@torch.inference_mode()
def unsteered_log_likelihoods(lm: LM, starts: Sequence[Start], texts: Sequence[Sequence[int]]) -> list[float]:
    """The log-likelihood of each continuation under the unsteered model, in nats, summed over its tokens.

    Args:
        lm: the model.
        starts: where each of them started.
        texts: their tokens.
    """
    whole = [replace(start, ids=[*start.ids, *text]) for start, text in zip(starts, texts, strict=True)]
    found = [0.0] * len(whole)
    for batch in length_buckets([start.ids for start in whole]):
        states = _states(lm, [whole[i] for i in batch])
        for i, h in zip(batch, states, strict=True):
            if text := texts[i]:
                targets = torch.tensor([*text], device=h.device)
                found[i] = float(lm.head.log_likelihood(h[-len(text) :], targets).sum())
    return found


def _states(lm: LM, starts: Sequence[Start]) -> list[Tensor]:
    """The hidden states (T - 1, d) of each text, but that of its last token."""
    if backend_for(lm)[1] is None:
        parts = [chunk.hidden for chunk in read_prompts(lm, starts, max(len(start.ids) for start in starts))]
        return [torch.cat(own) for own in zip(*parts, strict=True)]
    ids = [start.ids for start in starts]
    joined = torch.cat([h for _, (h, _) in run_in_halves(lm.predicting, ids)])
    return [*joined.split([len(each) - 1 for each in ids])]
