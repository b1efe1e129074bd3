"""Sweeps: the likelihood of a text at many strengths, from one pass of the model.

A steer moves raw logits along a line, so two products with the head serve all strengths::

    z(s) = z₀ + s z₁,   z₀ = h Eᵀ,   z₁ = (h A) (E B)ᵀ (multiply),  E a (add),  o (offset)          (N, V)

Each strength then takes a sum and a softmax over the same piece, a tenth of the time of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmsteer.model.head import Head
from lmsteer.model.onednn import linear
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class Direction:
    """The change of raw logits by one unit of strength: ``(h A) (E B)ᵀ``, or ``o``, which is the same for all rows.

    Attributes:
        a: A (d, r), or None.
        b: B (d, r), or None.
        eb: E B (V, r) if it is no larger than a piece; else None, and ``(h A) Bᵀ`` is multiplied by the head.
        offset: o (V,), or None.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    eb: Tensor | None = None
    offset: Tensor | None = None

    @classmethod
    def of_factors(cls, head: Head, a: Tensor, b: Tensor) -> Direction:
        """The direction of W = A Bᵀ, with A, B (d, r)."""
        a, b = (factor.to(head.weight.device, torch.float32) for factor in (a, b))
        small = b.shape[1] * head.weight.shape[0] <= head.piece_numbers
        return cls(a, b, head.direction(b.T).T.contiguous() if small else None)

    @classmethod
    def of_steer(cls, head: Head, steer: Steer) -> Direction:
        """The direction of a steer of any form; of one that acts inside the model, that of its part at the head."""
        if steer.form == "multiply":
            return cls.of_factors(head, steer.factors["A"], steer.factors["B"])
        if steer.form == "add":
            return cls(offset=head.direction(steer.factors["a"].to(head.weight.device)))
        return cls(offset=steer.factors["o"].to(head.weight.device, torch.float32))

    def scaled(self, columns: Tensor) -> Direction:
        """The direction with each column of A times a number (r,); E B is reused."""
        return self if self.a is None else replace(self, a=self.a * columns.to(self.a))

    def logits(self, head: Head, h: Tensor) -> Tensor:
        """z₁ (N, V) of hidden states ``h`` (N, d); (1, V) if it is the same for all."""
        if self.a is None or self.b is None:
            assert self.offset is not None
            return self.offset[None]
        x = h.float() @ self.a
        return linear(x, self.eb) if self.eb is not None else head.direction(x @ self.b.T)


def sweep(
    head: Head,
    h: Tensor,
    targets: Tensor,
    directions: Sequence[Direction],
    strengths: Sequence[float | Tensor],
    domain: Steer | None = None,
) -> Tensor:
    """Log-likelihood (K, S, N) of next tokens along each of K directions, at each of S strengths.

    Args:
        head: the head of the base model.
        h: unsteered hidden states (N, d).
        targets: ids of the tokens that follow them (N,).
        directions: the directions, each taken alone.
        strengths: the strengths, each a number or one number a row (N,).
        domain: a steer that is always on at strength 1.
    """
    device = head.weight.device
    base = Mix({"domain": domain}, {"domain": 1.0}) if domain is not None else Mix({}, {})
    table = torch.stack([torch.as_tensor(s, dtype=torch.float32).expand(len(h)) for s in strengths], 1)
    # Filled piece by piece: a small tensor for each piece would fragment the heap.
    log_p = torch.empty(len(h), len(directions), len(strengths))
    for rows, y, s, here in head.pieces(h, targets, table, log_p):
        rows, y, s = rows.to(device), y.to(device), s.to(device)
        z0 = base.steer_logits(head.raw(base.steer_hidden_states(rows)).float())
        buffer = torch.empty_like(z0)
        # Elsewhere than on the CPU each assignment to it would make the device wait.
        found = here if here.device == z0.device else torch.empty_like(here, device=z0.device)
        for k, direction in enumerate(directions):
            z1 = direction.logits(head, rows)
            for j, column in enumerate(s.T):
                found[:, k, j] = head.log_likelihood_of(torch.addcmul(z0, column[:, None], z1, out=buffer), y)
        if found is not here:
            here.copy_(found)
    return log_p.permute(1, 2, 0)


Directions = tuple[list[Direction], list[Direction]]


def directions_of(head: Head, steers: Sequence[Steer]) -> Directions:
    """The directions of steers when texts are read: inside the texts, and at their ends."""
    inside = [Direction.of_steer(head, steer) for steer in steers]
    at_end = [
        same if steer.with_eos() is steer else Direction.of_steer(head, steer.with_eos())
        for steer, same in zip(steers, inside, strict=True)
    ]
    return inside, at_end


def sweep_texts(
    head: Head,
    h: Tensor,
    targets: Tensor,
    is_end: Tensor,
    directions: Directions,
    strengths: Sequence[float | Tensor],
    domain: Steer | None = None,
) -> Tensor:
    """Log-likelihood (K, S, N) of the tokens under each of K steers, whose eos component acts where a text ends.

    Args:
        head: as in ``sweep``.
        h: as in ``sweep``.
        targets: as in ``sweep``.
        is_end: which of the tokens are the end of their text (N,), on the CPU.
        directions: the directions of the steers, each taken alone.
        strengths: as in ``sweep``.
        domain: as in ``sweep``.
    """
    log_p = torch.empty(len(directions[0]), len(strengths), len(h))
    for where, some in zip((~is_end, is_end), directions, strict=True):
        at = [s[where] if isinstance(s, Tensor) else s for s in strengths]
        log_p[:, :, where] = sweep(head, h[where], targets[where], some, at, domain)
    return log_p
