"""The log-likelihood of finished continuations under the unsteered model, by a pass of their own.

A steer in front of the head leaves the hidden states before it as they are: the decoder scores as it writes. One that
acts inside the model does not: its continuations are read once more, all of their tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmsteer.generation.prefill import read_prompts
from lmsteer.model.batching import TOKENS_PER_BATCH, length_buckets, run_in_halves
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
    whole = [replace(start, ids=[*start.ids, *text], inside=None) for start, text in zip(starts, texts, strict=True)]
    found = [0.0] * len(whole)
    for batch in length_buckets([start.ids for start in whole]):
        written = [i for i in batch if texts[i]]
        states = dict(zip(batch, _states(lm, [whole[i] for i in batch]), strict=True))
        if written:
            h = torch.cat([states[i][-len(texts[i]) :] for i in written])
            log_p = lm.head.log_likelihood(h, torch.tensor([token for i in written for token in texts[i]]).to(h.device))
            for i, own in zip(written, log_p.split([len(texts[i]) for i in written]), strict=True):
                found[i] = float(own.sum())
    return found


def _states(lm: LM, starts: Sequence[Start]) -> list[Tensor]:
    """The hidden states of each text, but that of its last token: of as many tokens as it has ids, less one."""
    if all(start.is_plain for start in starts):
        ids = [start.ids for start in starts]
        joined = torch.cat([h for _, (h, _) in run_in_halves(lm.predicting, ids)])
        return [*joined.split([len(each) - 1 for each in ids])]
    parts = [chunk.hidden for chunk in read_prompts(lm, starts, TOKENS_PER_BATCH)]
    return [torch.cat(own) for own in zip(*parts, strict=True)]
