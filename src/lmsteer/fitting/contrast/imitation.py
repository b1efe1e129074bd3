"""How near a steer comes to the instructions that it was made from.

It is measured by ``KL(p₊ ‖ p_s)`` at strength s, where p₊ is the prediction of the instructed model, and by
``KL(p₋ ‖ p_{-s})`` at the other end, on texts on subjects that the fit has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.fitting.contrast.rows import ContrastRows
from lmsteer.model.head import Head
from lmsteer.reading.sweep import Direction
from lmsteer.steer.steer import LowRank


@dataclass(frozen=True)
class Imitation:
    """How near a steer comes to the instructions, in nats a token, on unseen subjects.

    Attributes:
        between: the divergence of the two ends, KL(p₊ ‖ p₋); near 0 if the model does not follow the instructions.
        unsteered: the divergence at strength 0: what the instructions change.
        steered: the divergence at strength 1 (at the negative end: -1).
    """

    between: float
    unsteered: float
    steered: float

    @property
    def share(self) -> float:
        """The share of the divergence that the steer closes; 1 if it does what the instructions do."""
        return 1 - self.steered / self.unsteered if self.unsteered > 0 else 0.0


def imitation(head: Head, rows: ContrastRows, factors: LowRank) -> Imitation:
    """How near a steer comes to the instructions on some rows.

    With a single end, only the positive one counts.

    Args:
        head: the head of the model.
        rows: rows of texts on unseen subjects at the head's input, read under the parts of the steer inside the model.
        factors: A, B (d, r) of its part at the head, W = A Bᵀ.
    """
    direction = Direction.of_factors(head, *factors)

    def logits(h: Tensor) -> tuple[Tensor, Tensor]:
        return head.raw(h).float(), direction.logits(head, h)

    total = torch.zeros(3, dtype=torch.float64)
    ends = (1,) if rows.is_one_sided else (1, -1)
    moved = [after_neutral for after_neutral, _ in rows.under_steer] or [rows.neutral] * len(ends)
    for neutral, positive, negative, *steered in head.pieces(rows.neutral, rows.positive, rows.negative, *moved):
        unsteered = logits(neutral.to(head.device))
        base = torch.log_softmax(head.post(unsteered[0]), -1)
        plus, minus = (torch.log_softmax(head.logits(state), -1) for state in (positive, negative))
        total[0] += _divergence(plus, minus)
        for sign, instructed, state in zip(ends, (plus, minus), steered, strict=False):
            raw, shift = logits(state.to(head.device)) if rows.under_steer else unsteered
            total[1] += _divergence(instructed, base)
            total[2] += _divergence(instructed, torch.log_softmax(head.post(raw + sign * shift), -1))
    between, before, after = (total / len(rows)).tolist()
    return Imitation(between, before / len(ends), after / len(ends))


def _divergence(log_p: Tensor, log_q: Tensor) -> float:
    """The sum over rows of KL(p ‖ q)."""
    return float((log_p.exp() * (log_p - log_q)).sum())
