"""Sampling as steps of transformers' ``generate``: draw a token a row, and note what the unsteered model thinks.

The hidden states in front of a steer are those of the unsteered model on the same text: what it thinks of a steered
continuation costs one product with the head a token, and no second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from lmsteer.generation.config import SamplingConfig
from lmsteer.model.lm import LM

# Tokens among which the nucleus is sought, till it is among them: finding many takes long, and it is mostly small.
_NUCLEUS = (64, 1024)
# Temperatures below this would divide logits out of float32's range.
_GREEDY = 1e-4


def draw(scores: Tensor, u: Tensor, sampling: SamplingConfig) -> Tensor:
    """Tokens (B,) that random numbers ``u`` (B,) in [0, 1) fall on, given logits (B, V), which it may overwrite."""
    if sampling.temperature < _GREEDY:
        return scores.argmax(-1)
    z = _among_top_k(scores.float().div_(sampling.temperature), sampling.top_k)
    p = torch.softmax(z, -1, out=z)
    u = u.to(scores.device)
    drawn = torch.empty(len(p), dtype=torch.int64, device=p.device)
    rows = torch.arange(len(p), device=p.device)
    for width in (*_NUCLEUS, p.shape[-1]):
        all_of_them = width >= p.shape[-1]
        likeliest, order = p.sort(stable=True, descending=True) if all_of_them else p.topk(width)
        place = _place(likeliest, u[rows], sampling.top_p)
        drawn[rows] = order.gather(1, place[:, None]).squeeze(1)
        wider = likeliest.sum(-1) < sampling.top_p
        if all_of_them or not wider.any():
            break
        rows, p = rows[wider], p[wider]
    return drawn


def _among_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Logits (B, V) of which those below the k-th are -inf."""
    if not top_k:
        return scores
    least = scores.topk(min(top_k, scores.shape[-1]), -1).values[:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def _place(p: Tensor, u: Tensor, top_p: float) -> Tensor:
    """Which of the descending probabilities (B, k) the random numbers (B,) fall on, within the nucleus."""
    reached = p.cumsum(-1)
    inside = reached - p < top_p
    inside[:, 0] = True  # whatever top_p is in float32
    total = (p * inside).sum(-1)
    return ((reached <= (u * total)[:, None]) & inside).sum(-1).clamp(max=inside.sum(-1) - 1)


class RowSampler(LogitsProcessor):
    """Sampling with one random number a row and step, so that rows do not depend on their batch.

    It draws the token itself, and leaves it as the only possible one.

    Attributes:
        rows: which of the rows that it began with are in the batch (B,).
        tokens: how many each of all rows has been drawn, an end of text included.
        drawn: the last step's tokens (B,).
        counted: which rows had not ended before them (B,).
    """

    def __init__(self, uniform: Tensor, sampling: SamplingConfig, end: Sequence[int]) -> None:
        self._uniform, self._sampling = uniform, sampling
        self._end = set(end)
        self._step = 0
        self._alive = torch.ones(len(uniform), dtype=torch.bool)
        self.rows = torch.arange(len(uniform))
        self.tokens = torch.zeros(len(uniform), dtype=torch.int64)
        self.drawn: Tensor = torch.zeros(0)
        self.counted: Tensor = self._alive

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw from logits (B, V), which it overwrites; gives logits of which all but one token's are -inf."""
        self.drawn = draw(scores, self._uniform[self.rows, self._step], self._sampling)
        self.counted = self._alive.clone()
        self.tokens[self.rows] += self._alive
        ended = torch.tensor([y in self._end for y in self.drawn.tolist()])
        self._alive &= ~ended
        self._step += 1
        return scores.fill_(-torch.inf).scatter_(1, self.drawn[:, None], 0.0)

    def drop_ended(self) -> Tensor:
        """Go on with the rows that have not ended: gives their places in the batch as it was."""
        left = self._alive.nonzero().squeeze(1)
        self.rows, self._alive = self.rows[left], self._alive[left]
        return left


class _Watcher(LogitsProcessor):
    """Sees the hidden states in front of any steer, through a hook on the head."""

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        self._head, self._sampler = lm.head, sampler
        self._h = torch.zeros(0)

    def hook(self, _: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook: keeps the last position's hidden states (B, d)."""
        self._h = args[0][:, -1]


class Recorder(_Watcher):
    """Keeps the hidden states and the tokens drawn from them, of the rows that have not ended."""

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        super().__init__(lm, sampler)
        self.h: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Take this step in; the scores stay as they are."""
        counted = self._sampler.counted.to(self._h.device)
        self.h.append(self._h[counted])
        self.drawn.append(self._sampler.drawn[counted])
        return scores


class LogLikelihoodRecorder(_Watcher):
    """Adds up what the unsteered model thinks of the tokens that the sampler drew: ``log_p`` (B,)."""

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        super().__init__(lm, sampler)
        self.log_p = torch.zeros(len(sampler.tokens))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Take this step in; the scores stay as they are."""
        log_p = self._head.log_likelihood_of(self._head.raw(self._h).float(), self._sampler.drawn)
        self.log_p[self._sampler.rows] += log_p.cpu() * self._sampler.counted
        return scores
