"""Reading labelled texts under a steer: how much likelier they get, and whether they tell their label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lmsteer.fitting.rows import Rows
from lmsteer.head import Head
from lmsteer.steers.mix import Mix
from lmsteer.steers.steer import Steer


@dataclass(frozen=True)
class Reading:
    """What labelled texts say of a steer.

    Attributes:
        texts: how many texts were read.
        tokens: how many tokens.
        gain: gain in log-likelihood under s = label against s = 0, nats a token, texts of label 0 included.
        gain_positive: the same over texts of positive label, at s = +1.
        gain_negative: over texts of negative label, at s = -1.
        gain_inside: ``gain`` without the end-of-text tokens, under the steer as it acts when the model writes, that
            is without its end part.
        signs: share of texts with a label ≠ 0 whose sign is that of log p(text | +1) - log p(text | -1).
        signs_inside: the same inside texts, without the end part.
    """

    texts: int
    tokens: int
    gain: float
    gain_positive: float
    gain_negative: float
    gain_inside: float
    signs: float
    signs_inside: float

    def to_json(self) -> dict[str, float | None]:
        """The figures, rounded to what they can tell; None where there was nothing to read."""
        return {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(self).items()}


def read(head: Head, rows: Rows, steer: Steer, domain: Steer | None = None) -> Reading:
    """Read rows of labelled texts at strengths -1, 0, +1 and at their labels.

    Args:
        head: of the steer's base.
        rows: of the texts; the residuals are not used.
        steer: the steer, its end part taken in.
        domain: a domain steer, always on at strength 1.
    """
    low, base, high, own = log_likelihoods(head, rows, steer.reader(), [-1.0, 0.0, 1.0, rows.label], domain)
    gain = own - base
    inside = rows[~rows.is_end]
    strengths: list[float | Tensor] = [-1.0, 0.0, 1.0, inside.label]
    low_inside, base_inside, high_inside, own_inside = log_likelihoods(head, inside, steer, strengths, domain)
    return Reading(
        texts=len(rows.texts()[1]),
        tokens=len(rows),
        gain=_mean(gain),
        gain_positive=_mean((high - base)[rows.label > 0]),
        gain_negative=_mean((low - base)[rows.label < 0]),
        gain_inside=_mean(own_inside - base_inside),
        signs=_signs(rows, high - low),
        signs_inside=_signs(inside, high_inside - low_inside),
    )


def log_likelihoods(
    head: Head, rows: Rows, steer: Steer, strengths: Sequence[float | Tensor], domain: Steer | None = None
) -> Tensor:
    """Log-likelihood (S, N) of the rows' tokens at each strength (a number, or one a row (N,)).

    ``z(s) = z₀ + s z₁`` is linear in s, so that two products with the head serve every strength.
    """
    device = head.weight.device
    name = steer.card.name
    full = [torch.as_tensor(s, dtype=torch.float32).expand(len(rows)) for s in strengths]
    table = torch.stack(full, 1) if full else torch.zeros(len(rows), 0)
    base = Mix({"domain": domain}, {"domain": 1.0}) if domain is not None else Mix({}, {})
    unit = Mix({name: steer}, {name: 1.0})
    parts = [torch.zeros(len(strengths), 0)]
    for h, y, s in head.pieces(rows.h, rows.target, table):
        h, y, s = h.to(device), y.to(device), s.to(device)
        z0 = base.steer_logits(head.raw(base.steer_hidden_states(h)).float())
        z1 = unit.steer_logits(head.direction(unit.steer_hidden_states(h) - h))
        parts.append(torch.stack([head.log_likelihood_of(z0 + c[:, None] * z1, y) for c in s.T]).cpu())
    return torch.cat(parts, 1)


def _signs(rows: Rows, evidence: Tensor) -> float:
    """Share of texts with a label ≠ 0 whose evidence (N,), summed, has the label's sign."""
    _, labels = rows.texts()
    told = labels != 0
    return _mean((rows.per_text(evidence).sign() == labels.sign())[told].float())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
