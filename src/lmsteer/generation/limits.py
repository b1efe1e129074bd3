"""Limits on how far steers move each token, row by row, without a look at any value on the host.

A step knows its raw logits in two parts: those of the unsteered model ``z₀`` (B, V), and the shift ``z₁`` (B, V) by the
steers at their strengths. With the model's own logit scale and soft cap, ``post``, the distributions are::

    p₀ = softmax(post(z₀))        p_λ = softmax(post(z₀ + λ z₁))        λ in [0, 1]

The limits apply in this order:

1. *fresh*: ``z₁`` is 0 for tokens that are among the last N of the continuation.
2. *kl*: λ is the largest multiple of 1/128 with KL(p_λ || p₀) ≤ κ nats: 1, or found by bisection. Without a soft cap
   the divergence grows with λ: p_λ is an exponential family, and dKL/dλ = λ Var_λ(post(z₁)). With a soft cap it may
   fall again, and the λ that is found need not be the largest one; its divergence is within κ all the same.
3. *plausible*: only tokens with p₀(v) ≥ a max p₀ remain. The likeliest token of the unsteered model always does.

A row without limits has the logits ``post(z₀ + z₁)``, bit for bit, whatever limits the other rows have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.config import Limits

# λ is a multiple of 2 to the power of minus this many: one pass over the vocabulary for each.
_PASSES = 7
# In place of raw logits of minus infinity, whose differences would not be numbers.
_LEAST = -1e30


@dataclass(frozen=True)
class RowLimits:
    """The limits of the rows of a batch, on the device of their logits.

    Attributes:
        log_plausible: log a (B,), minus infinity for rows without this limit.
        fresh: N (B,), 0 for rows without it.
        kl: κ (B,), infinity for rows without it.
        recent: the last tokens (B, W) of each row's continuation, the last one in the last column; -1 where a
            continuation is shorter.
        kinds: the names of the limits that any row has; the others cost nothing.
    """

    log_plausible: Tensor
    fresh: Tensor
    kl: Tensor
    recent: Tensor
    kinds: frozenset[str]

    @classmethod
    def of(
        cls, rows: Sequence[Limits], written: Sequence[Sequence[int]], longest: int, device: torch.device
    ) -> RowLimits:
        """The limits of some rows, copied to a device.

        Args:
            rows: the limits of each row.
            written: the tokens of each row's continuation so far.
            longest: the largest number of tokens that a continuation can have.
            device: the device of their logits.
        """
        table = torch.tensor(
            [[math.log(row.plausible) if row.plausible else -math.inf, row.fresh, row.kl] for row in rows],
            dtype=torch.float32,
        ).reshape(-1, 3)
        log_plausible, fresh, kl = table.to(device).T.contiguous()
        width = min(longest, max((row.fresh for row in rows), default=0))
        ends = [[*own[-width:]] if width else [] for own in written]
        recent = torch.tensor([[-1] * (width - len(own)) + own for own in ends], dtype=torch.int64, device=device)
        kinds = frozenset(name for row in rows for name in row.on)
        return cls(log_plausible, fresh, kl, recent.reshape(len(rows), width), kinds)

    @property
    def is_on(self) -> Tensor:
        """Which rows have a limit (B,)."""
        return self.log_plausible.isfinite() | (self.fresh > 0) | self.kl.isfinite()

    def at(self, rows: Tensor) -> RowLimits:
        """The limits of some rows (N,), which may be named more than once."""
        return replace(
            self,
            log_plausible=self.log_plausible[rows],
            fresh=self.fresh[rows],
            kl=self.kl[rows],
            recent=self.recent[rows],
        )

    def after(self, tokens: Tensor) -> RowLimits:
        """The limits of the next step, after each row's token (B,)."""
        if not self.recent.shape[1]:
            return self
        return replace(self, recent=torch.cat([self.recent[:, 1:], tokens[:, None]], 1))


class Limited(NamedTuple):
    """The logits of steered rows within their limits.

    Attributes:
        logits: final logits (B, V), minus infinity for tokens that must not be drawn.
        steered: final logits (B, V) before such tokens are ruled out.
        share: λ (B,), by which the strengths of each row were scaled.
    """

    logits: Tensor
    steered: Tensor
    share: Tensor


def limited(z0: Tensor, z1: Tensor, limits: RowLimits, post: Callable[[Tensor], Tensor]) -> Limited:
    """The logits of steered rows within their limits.

    Args:
        z0: raw logits (B, V) of the unsteered model.
        z1: the shift (B, V) of the raw logits by the steers at the strengths of each row.
        limits: the limits of each row.
        post: the model's logit scale and soft cap (``Head.post``): for each raw logit, a final one that grows with it.
    """
    if "fresh" in limits.kinds:
        z1 = _only_fresh(z1, limits.recent, limits.fresh)
    share = torch.ones(len(z0), device=z0.device)
    if "kl" in limits.kinds:
        search = _one_by_one if z0.device.type == "cpu" else _all_at_once
        share = search(z0, z1, limits.kl, post)
        z1 = z1 * share[:, None].to(z1.dtype)
    logits = steered = post(z0 + z1)
    if "plausible" in limits.kinds:
        unsteered = post(z0)
        least = unsteered.amax(-1, keepdim=True).float() + limits.log_plausible[:, None]
        logits = steered.masked_fill(unsteered < least, -torch.inf)
    return Limited(logits, steered, share)


def _only_fresh(z1: Tensor, recent: Tensor, fresh: Tensor) -> Tensor:
    """The shift, with 0 for each row's tokens among its last ``fresh`` (B,)."""
    age = torch.arange(recent.shape[1], 0, -1, device=recent.device)
    is_held = (recent >= 0) & (age <= fresh[:, None])
    # A product, as padding and a token may fall on one place.
    return z1.scatter_reduce(1, recent.clamp(min=0), (~is_held).to(z1.dtype), "prod")


def _one_by_one(z0: Tensor, z1: Tensor, budget: Tensor, post: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest λ (B,) with a divergence within the budget (B,), row by row, for a CPU.

    What a pass reads and writes of one row stays in the cache of the core, and a row that is within its budget at λ = 1
    needs no other pass.
    """
    shares, room = torch.ones_like(budget), z0.new_empty(4, 1, z0.shape[1], dtype=torch.float32)
    for row in range(len(z0)):
        place = slice(row, row + 1)
        divergence = _Divergence(z0[place], z1[place], post, room)
        if not divergence(shares[place]) <= budget[row]:
            shares[place] = _bisect(divergence, budget[place])
    return shares


def _all_at_once(z0: Tensor, z1: Tensor, budget: Tensor, post: Callable[[Tensor], Tensor]) -> Tensor:
    """The same without a look at any value: on an accelerator it would cost more than the passes that it saves."""
    divergence = _Divergence(z0, z1, post, z0.new_empty(4, *z0.shape, dtype=torch.float32))
    whole = torch.ones_like(budget)
    return torch.where(divergence(whole) <= budget, whole, _bisect(divergence, budget))


def _bisect(divergence: _Divergence, budget: Tensor) -> Tensor:
    """The λ (B,) below 1 that bisection finds."""
    low = torch.zeros_like(budget)
    for power in range(1, _PASSES + 1):
        trial = low + 2.0**-power
        low = torch.where(divergence(trial) <= budget, trial, low)
    return low


class _Divergence:
    """KL(p_λ || p₀) (B,) of some rows as a function of λ (B,).

    Args:
        z0: as in ``limited``.
        z1: likewise.
        post: likewise.
        room: float32 memory (4, B, V) for its passes over the vocabulary.
    """

    def __init__(self, z0: Tensor, z1: Tensor, post: Callable[[Tensor], Tensor], room: Tensor) -> None:
        self._z1, self._post = z1.float(), post
        self._z0, self._log_p0, self._raw, self._p = room
        torch.clamp(z0.float(), min=_LEAST, out=self._z0)
        torch.log_softmax(post(self._z0), -1, out=self._log_p0)

    def __call__(self, share: Tensor) -> Tensor:
        z = self._post(torch.addcmul(self._z0, self._z1, share[:, None], out=self._raw))
        z -= z.amax(-1, keepdim=True)
        p = torch.exp(z, out=self._p)
        total = p.sum(-1)
        z -= self._log_p0
        z *= p
        return z.sum(-1) / total - total.log()
