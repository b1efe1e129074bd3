"""Sampling, as steps of transformers' ``generate``: draw a token per row, and record what the unsteered model says.

Each row brings its own random numbers (noise), one in [0, 1) per token. A token is drawn by inverting the cumulative
distribution at that number, so what a row draws does not depend on the other rows of its batch, and two strengths with
the same noise differ by the strength alone (common random numbers).

The hidden states in front of a steer are those of the unsteered model on the same text. So the unsteered model's
log-likelihood of steered text costs one product with the head per token, and no second pass.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from lmsteer.errors import LMSteerError
from lmsteer.generation.config import SamplingConfig
from lmsteer.model.lm import LM

# Look for the nucleus among the 64 most likely tokens, then 1,024, then all: it is usually small.
_NUCLEUS = (64, 1024)
# Temperatures below this would divide logits out of float32's range.
_GREEDY = 1e-4
# Float32 probabilities of all tokens that top-k leaves may sum to a little less than 1.
_ROUNDING = 1e-6


class NotFiniteError(LMSteerError):
    """Logits that are not finite numbers, from which no token can be drawn.

    Attributes:
        row: the row, out of those that the sampler started with.
    """

    def __init__(self, row: int, message: str = "the model's logits are not finite numbers.") -> None:
        super().__init__(message)
        self.row = row


def draw(scores: Tensor, noise: Tensor, sampling: SamplingConfig) -> Tensor:
    """Draw one token per row.

    Args:
        scores: logits (B, V); they may be overwritten.
        noise: random numbers (B,) in [0, 1).
        sampling: what to draw from.

    Returns:
        Token ids (B,), int64.
    """
    if sampling.temperature < _GREEDY:
        return scores.argmax(-1)
    z = _keep_top_k(scores.float().div_(sampling.temperature), sampling.top_k)
    p = torch.softmax(z, -1, out=z)
    noise = noise.to(scores.device)
    if sampling.top_p >= 1 and not sampling.top_k:
        return _draw_from_all(p, noise)
    return _draw_from_nucleus(p, noise, sampling.top_p)


def _keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Logits (B, V), with -inf in place of those below the k-th largest; tokens level with it stay."""
    if not top_k:
        return scores
    least = scores.topk(min(top_k, scores.shape[-1]), -1).values[:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def _draw_from_all(p: Tensor, noise: Tensor) -> Tensor:
    """Draw from probabilities (B, V) in the vocabulary's order, which needs no sorting."""
    reached = p.cumsum(-1)
    total = reached[:, -1:]
    # Strictly below the total, whatever the rounding, so that a token of positive probability is found.
    goal = torch.minimum(noise[:, None] * total, total.nextafter(torch.zeros_like(total)))
    found = torch.searchsorted(reached, goal, right=True).squeeze(1)
    return found.clamp(max=p.shape[-1] - 1)  # it is one more where probabilities are nan


def _draw_from_nucleus(p: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """Draw from the most likely tokens of probabilities (B, V) whose sum reaches ``top_p``."""
    drawn = torch.empty(len(p), dtype=torch.int64, device=p.device)
    rows = torch.arange(len(p), device=p.device)
    for width in (*_NUCLEUS, p.shape[-1]):
        is_all = width >= p.shape[-1]
        likeliest, order = p.sort(stable=True, descending=True) if is_all else p.topk(width)
        place = _place(likeliest, noise[rows], top_p)
        drawn[rows] = order.gather(1, place[:, None]).squeeze(1)
        is_wider = likeliest.sum(-1) < min(top_p, 1 - _ROUNDING)
        if is_all or not is_wider.any():
            break
        rows, p = rows[is_wider], p[is_wider]
    return drawn


def _place(p: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """The index (B,) among descending probabilities (B, k) that the noise (B,) falls on, within the nucleus."""
    reached = p.cumsum(-1)
    inside = reached - p < top_p
    inside[:, 0] = True  # whatever top_p is in float32
    total = (p * inside).sum(-1)
    return ((reached <= (noise * total)[:, None]) & inside).sum(-1).clamp(max=inside.sum(-1) - 1)


class RowSampler(LogitsProcessor):
    """Draws the tokens of a batch, with noise of its own for each row, and keeps count of the rows that still run.

    transformers' greedy loop calls it with the logits of each step. It draws a token per row and leaves that token as
    the only possible one, so that the loop takes it. Rows that have drawn an end-of-text token stay in the batch until
    ``drop_ended`` is called; what they draw until then does not count.

    Args:
        noise: random numbers (B, T) in [0, 1), for B rows and at most T steps.
        sampling: what to draw from.
        stop_ids: the tokens that end a row.

    Attributes:
        rows: the indices of the rows that are in the batch now, out of those that it started with (B',).
        token_counts: how many tokens each of the B rows has drawn, with its end-of-text token (B,).
        drawn: the tokens of the last step (B',).
        counted: which rows had not ended before the last step (B',).
    """

    def __init__(self, noise: Tensor, sampling: SamplingConfig, stop_ids: Collection[int]) -> None:
        self._noise, self._sampling = noise, sampling
        self._stop_ids = frozenset(stop_ids)
        self._step = 0
        self._running = torch.ones(len(noise), dtype=torch.bool)
        self.rows = torch.arange(len(noise))
        self.token_counts = torch.zeros(len(noise), dtype=torch.int64)
        self.drawn: Tensor = torch.zeros(0)
        self.counted: Tensor = self._running

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw from logits (B', V), which are overwritten; all but the drawn tokens' become -inf.

        Raises:
            NotFiniteError: the logits of a row that has not ended are not finite numbers.
        """
        finite = scores.amax(-1).isfinite().cpu()
        if len(wrong := self.rows[self._running & ~finite]):
            raise NotFiniteError(int(wrong[0]))
        self.drawn = draw(scores, self._noise[self.rows, self._step], self._sampling)
        self.counted = self._running.clone()
        self.token_counts[self.rows] += self._running
        ended = torch.tensor([token in self._stop_ids for token in self.drawn.tolist()])
        self._running &= ~ended
        self._step += 1
        return scores.fill_(-torch.inf).scatter_(1, self.drawn[:, None], 0.0)

    def drop_ended(self) -> Tensor:
        """Continue with the rows that have not ended; returns their places in the batch as it was."""
        running = self._running.nonzero().squeeze(1)
        self.rows, self._running = self.rows[running], self._running[running]
        return running


class _HeadInputWatcher(LogitsProcessor):
    """A processor after the sampler that sees the hidden states in front of any steer, through a hook on the head."""

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        self._head, self._sampler = lm.head, sampler
        self._h = torch.zeros(0)

    def hook(self, _: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook for the head: keeps the hidden states of the last position (B', d)."""
        self._h = args[0][:, -1]


class HiddenStateRecorder(_HeadInputWatcher):
    """Keeps the hidden states, and the tokens drawn from them, of rows that have not ended.

    Attributes:
        h: hidden states (B', d), one tensor per step.
        drawn: tokens (B',), one tensor per step.
    """

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        super().__init__(lm, sampler)
        self.h: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record this step; the scores are returned unchanged."""
        counted = self._sampler.counted  # on the CPU: hidden states and tokens may be on different devices
        self.h.append(self._h[counted])
        self.drawn.append(self._sampler.drawn[counted])
        return scores


class LogLikelihoodRecorder(_HeadInputWatcher):
    """Sums the unsteered model's log-likelihood of the tokens that the sampler draws.

    Attributes:
        log_p: the sums (B,), in nats, for all rows that the sampler started with.
    """

    def __init__(self, lm: LM, sampler: RowSampler) -> None:
        super().__init__(lm, sampler)
        self.log_p = torch.zeros(len(sampler.token_counts))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record this step; the scores are returned unchanged."""
        log_p = self._head.log_likelihood_of(self._head.raw(self._h).float(), self._sampler.drawn)
        self.log_p[self._sampler.rows] += log_p.cpu() * self._sampler.counted
        return scores
