"""Sampling: one token a row, drawn with the row's own noise and settings.

Each row brings its own random numbers (noise), one in [0, 1) per token. A token is drawn by inverting the cumulative
distribution at that number, so what a row draws does not depend on the other rows of its batch, and two strengths with
the same noise differ by the strength alone (common random numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.generation.config import SamplingConfig

# What is drawn from logits that are not finite numbers: no token.
OVERFLOW = -1
# Look for the nucleus among the 64 most likely tokens, then 1,024, then all: it is usually small.
_NUCLEUS = (64, 1024)
# Temperatures below this would divide logits out of float32's range.
_GREEDY = 1e-4
# Float32 probabilities of all tokens that top-k leaves may sum to a little less than 1.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RowSettings:
    """How the rows of a batch draw, on the device that their logits are on.

    Attributes:
        temperature: (B, 1); 1 for rows that take the most likely token.
        top_k: (B, 1), int64; the size of the vocabulary for rows without top-k.
        top_p: (B,).
        max_top_k: the largest top-k of any row; 0 if none has one.
        divides: whether any row has a temperature other than 1.
        greedy: the places of the rows that take the most likely token.
        whole: the places of those that draw from all tokens.
        nucleus: the places of those that draw from the most likely ones.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    max_top_k: int
    divides: bool
    greedy: Tensor
    whole: Tensor
    nucleus: Tensor

    @classmethod
    def of(cls, rows: Sequence[SamplingConfig], vocabulary: int, device: torch.device) -> RowSettings:
        """The settings of some rows."""
        kinds = [_kind(row) for row in rows]
        greedy, whole, nucleus = (
            torch.tensor([place for place, each in enumerate(kinds) if each == kind], dtype=torch.int64, device=device)
            for kind in ("greedy", "whole", "nucleus")
        )
        temperatures = [1.0 if kind == "greedy" else row.temperature for row, kind in zip(rows, kinds, strict=True)]
        limits = [min(row.top_k or vocabulary, vocabulary) for row in rows]
        return cls(
            torch.tensor(temperatures, device=device)[:, None],
            torch.tensor(limits, device=device)[:, None],
            torch.tensor([row.top_p for row in rows], device=device),
            max((min(row.top_k, vocabulary) for row in rows), default=0),
            any(temperature != 1 for temperature in temperatures),
            greedy,
            whole,
            nucleus,
        )


def _kind(row: SamplingConfig) -> str:
    if row.temperature < _GREEDY:
        return "greedy"
    return "whole" if row.top_p >= 1 and not row.top_k else "nucleus"


def draw(logits: Tensor, noise: Tensor, settings: RowSettings) -> Tensor:
    """Draw one token per row.

    On an accelerator nothing waits for the device.

    Args:
        logits: logits (B, V), which stay as they are.
        noise: random numbers (B,) in [0, 1).
        settings: how each row draws.

    Returns:
        Token ids (B,), int64; ``OVERFLOW`` for rows whose largest logit is not a finite number.
    """
    drawn = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    _put(drawn, settings.greedy, lambda rows: logits[rows].argmax(-1))
    if len(settings.greedy) < len(logits):
        z = logits.float()
        p = torch.softmax(_keep_top_k(z / settings.temperature if settings.divides else z, settings), -1)
        _put(drawn, settings.whole, lambda rows: _draw_from_all(p[rows], noise[rows]))
        _put(drawn, settings.nucleus, lambda rows: _draw_from_nucleus(p[rows], noise[rows], settings.top_p[rows]))
    return drawn.masked_fill_(~logits.amax(-1).isfinite(), OVERFLOW)


def _put(drawn: Tensor, rows: Tensor, draw_rows: Callable[[Tensor | slice], Tensor]) -> None:
    """Draw for some rows; where these are all rows, nothing is copied."""
    if len(rows) == len(drawn):
        drawn.copy_(draw_rows(slice(None)))
    elif len(rows):
        drawn[rows] = draw_rows(rows)


def _keep_top_k(scores: Tensor, settings: RowSettings) -> Tensor:
    """Logits (B, V), with -inf in place of those below the k-th largest; tokens level with it stay."""
    if not settings.max_top_k:
        return scores
    has_top_k = settings.top_k < scores.shape[-1]
    largest = scores.topk(settings.max_top_k, -1).values
    least = largest.gather(1, settings.top_k.clamp(max=settings.max_top_k) - 1)
    return scores.masked_fill((scores < least) & has_top_k, -torch.inf)


def _draw_from_all(p: Tensor, noise: Tensor) -> Tensor:
    """Draw from probabilities (B, V) in the vocabulary's order, which needs no sorting."""
    reached = p.cumsum(-1)
    total = reached[:, -1:]
    # Strictly below the total, whatever the rounding, so that a token of positive probability is found.
    goal = torch.minimum(noise[:, None] * total, total.nextafter(torch.zeros_like(total)))
    found = torch.searchsorted(reached, goal, right=True).squeeze(1)
    return found.clamp(max=p.shape[-1] - 1)  # it is one more where probabilities are nan


def _draw_from_nucleus(p: Tensor, noise: Tensor, top_p: Tensor) -> Tensor:
    """Draw from the most likely tokens of probabilities (B, V) whose sum reaches ``top_p`` (B,).

    Only the CPU looks at whether few tokens are enough: elsewhere that look would cost more than sorting all.
    """
    drawn = torch.empty(len(p), dtype=torch.int64, device=p.device)
    rows = torch.arange(len(p), device=p.device)
    for width in (*(_NUCLEUS if p.device.type == "cpu" else ()), p.shape[-1]):
        is_all = width >= p.shape[-1]
        likeliest, order = p.sort(stable=True, descending=True) if is_all else p.topk(width)
        place = _place(likeliest, noise[rows], top_p[rows])
        drawn[rows] = order.gather(1, place[:, None]).squeeze(1)
        if is_all:
            break
        is_wider = likeliest.sum(-1) < top_p[rows].clamp(max=1 - _ROUNDING)
        if not is_wider.any():
            break
        rows, p = rows[is_wider], p[is_wider]
    return drawn


def _place(p: Tensor, noise: Tensor, top_p: Tensor) -> Tensor:
    """The index (B,) among descending probabilities (B, k) that the noise (B,) falls on, within the nucleus."""
    reached = p.cumsum(-1)
    inside = reached - p < top_p[:, None]
    inside[:, 0] = True  # whatever top_p is in float32
    total = (p * inside).sum(-1)
    return ((reached <= (noise * total)[:, None]) & inside).sum(-1).clamp(max=inside.sum(-1) - 1)
