"""The unit of strength of a contrast: strength 1 comes as near as it can to what the instruction itself does.

How far a steered prediction is from that of the instructed model is measured by ``KL(p₊ ‖ p_s)`` at strength s, and by
``KL(p₋ ‖ p_{-s})`` at the other end, on texts on subjects that the fit has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.fitting.contrast.rows import ContrastRows
from lmsteer.model.head import Head
from lmsteer.reading.sweep import Direction

# Sizes that are tried, as lengths of W in the Fisher metric: the square root of nats, times two.
_LENGTHS = (0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08, 0.11, 0.16, 0.22, 0.32)


@dataclass(frozen=True)
class Imitation:
    """How near a steer comes to the instructions, in nats a token, from text to text on unseen subjects.

    Attributes:
        unsteered: the divergence at strength 0: what the instructions change.
        steered: the divergence at strength 1 (at the negative end: -1).
    """

    unsteered: float
    steered: float

    @property
    def share(self) -> float:
        """The share of the divergence that the steer closes; 1 if it does what the instructions do."""
        return 1 - self.steered / self.unsteered if self.unsteered > 0 else 0.0


def divergences(
    head: Head, rows: ContrastRows, factors: tuple[Tensor, Tensor], scales: Sequence[float], *, both: bool
) -> list[float]:
    """The mean divergence from the instructed predictions for each scale of W = A Bᵀ, in nats a token.

    Args:
        head: the head of the model.
        rows: rows of texts.
        factors: A, B (d, r).
        scales: factors on W.
        both: whether the negative end counts as well as the positive one.
    """
    direction = Direction.of_factors(head, *factors)
    total = torch.zeros(len(scales), dtype=torch.float64)
    for neutral, positive, negative in head.pieces(rows.neutral, rows.positive, rows.negative):
        h = neutral.to(head.device)
        base, shift = head.raw(h).float(), direction.logits(head, h)
        for sign, instructed in ((1, positive), (-1, negative))[: 1 + both]:
            log_p = torch.log_softmax(head.logits(instructed), -1)
            p, entropy = log_p.exp(), (log_p.exp() * log_p).sum()
            for k, scale in enumerate(scales):
                log_q = torch.log_softmax(head.post(base + sign * scale * shift), -1)
                total[k] += float(entropy - (p * log_q).sum())
    return (total / (len(rows) * (1 + both))).tolist()


def nearest_scale(
    head: Head, rows: ContrastRows, factors: tuple[Tensor, Tensor], length: float, *, both: bool
) -> tuple[float, Imitation]:
    """The scale of W = A Bᵀ that comes nearest to the instructions, and how near it comes.

    Args:
        head: the head of the model.
        rows: rows of texts on unseen subjects.
        factors: A, B (d, r).
        length: the length of W in the Fisher metric.
        both: whether the negative end counts as well as the positive one.
    """
    scales = [size / length for size in _LENGTHS]
    unsteered, *steered = divergences(head, rows, factors, [0.0, *scales], both=both)
    best = min(range(len(scales)), key=steered.__getitem__)
    return scales[best], Imitation(unsteered, steered[best])
