"""Reading labelled texts under a steer: how much likelier they get, and whether they tell their label."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from torch import Tensor

from lmsteer.fitting.rows import Rows
from lmsteer.head import Head
from lmsteer.steers.steer import Steer
from lmsteer.sweep import Direction, sweep


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
    reader, in_flight = (Direction.of_steer(head, one) for one in (steer.reader(), steer))
    whole, inside = sweep(head, rows.h, rows.target, [reader, in_flight], [-1.0, 1.0, rows.label], domain)
    base = rows.log_p if domain is None else sweep(head, rows.h, rows.target, [reader], [0.0], domain)[0, 0]
    low, high, own = whole
    is_inside = ~rows.is_end
    low_inside, high_inside, own_inside = inside[:, is_inside]
    return Reading(
        texts=len(rows.texts()[1]),
        tokens=len(rows),
        gain=_mean(own - base),
        gain_positive=_mean((high - base)[rows.label > 0]),
        gain_negative=_mean((low - base)[rows.label < 0]),
        gain_inside=_mean(own_inside - base[is_inside]),
        signs=_signs(rows, high - low),
        signs_inside=_signs(rows[is_inside], high_inside - low_inside),
    )


def _signs(rows: Rows, evidence: Tensor) -> float:
    """Share of texts with a label ≠ 0 whose evidence (N,), summed, has the label's sign."""
    _, labels = rows.texts()
    told = labels != 0
    return _mean((rows.per_text(evidence).sign() == labels.sign())[told].float())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
