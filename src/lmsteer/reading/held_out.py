"""Reading labelled texts under a steer: how much likelier they get, and whether they tell their label."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from torch import Tensor

from lmsteer.model.head import Head
from lmsteer.reading.platt import auc, fit_platt
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import directions_of, sweep_texts
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class Reading:
    """What labelled texts say of a steer.

    Attributes:
        texts: how many texts were read.
        tokens: how many tokens.
        log_likelihood_gain: log-likelihood at s = label less that at s = 0, nats a token, over all texts.
        log_likelihood_gain_positive: the same over texts of positive label, at s = +1.
        log_likelihood_gain_negative: over texts of negative label, at s = -1.
        log_likelihood_gain_without_eos: the same without the end-of-text tokens: there the steer acts as it does
            when the model generates.
        sign_accuracy: share of texts with a label ≠ 0 whose sign is that of log p(text | +1) - log p(text | -1).
        sign_accuracy_without_eos: the same without the end-of-text tokens.
        auc: area under the curve of that difference, over texts of positive label against those of negative.
        slope: with ``offset``, of the ``Calibration`` that makes a probability of it.
        offset: see ``slope``.
    """

    texts: int
    tokens: int
    log_likelihood_gain: float
    log_likelihood_gain_positive: float
    log_likelihood_gain_negative: float
    log_likelihood_gain_without_eos: float
    sign_accuracy: float
    sign_accuracy_without_eos: float
    auc: float
    slope: float
    offset: float

    def to_json(self) -> dict[str, float | None]:
        """The figures, rounded to what they can tell; None where there was nothing to read."""
        rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(self).items()}
        # Of long texts, whose evidence is large, the slope is small.
        return rounded | {"slope": None if math.isnan(self.slope) else float(f"{self.slope:.4g}")}


def read(head: Head, rows: LabelledRows, steer: Steer, domain: Steer | None = None) -> Reading:
    """Read rows of labelled texts at strengths -1, 0, +1 and at their labels.

    Args:
        head: of the steer's base.
        rows: of the texts; the residuals are not used.
        steer: the steer; its end part acts where a text ends.
        domain: a domain steer, always on at strength 1.
    """
    of_texts = rows.h, rows.target, rows.is_end, directions_of(head, [steer])
    low, high, own = sweep_texts(head, *of_texts, [-1.0, 1.0, rows.label], domain)[0]
    base = rows.log_p if domain is None else sweep_texts(head, *of_texts, [0.0], domain)[0, 0]
    inside = ~rows.is_end
    evidence, labels = _told(rows, high - low)
    calibration = fit_platt(evidence, labels > 0)
    return Reading(
        texts=len(rows.texts()[1]),
        tokens=len(rows),
        log_likelihood_gain=_mean(own - base),
        log_likelihood_gain_positive=_mean((high - base)[rows.label > 0]),
        log_likelihood_gain_negative=_mean((low - base)[rows.label < 0]),
        log_likelihood_gain_without_eos=_mean((own - base)[inside]),
        sign_accuracy=_signs(evidence, labels),
        sign_accuracy_without_eos=_signs(*_told(rows[inside], (high - low)[inside])),
        auc=auc(evidence, labels > 0),
        slope=calibration.slope,
        offset=calibration.offset,
    )


def _told(rows: LabelledRows, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence (N,) summed for each text with a label ≠ 0, and those labels."""
    _, labels = rows.texts()
    return rows.per_text(evidence)[labels != 0], labels[labels != 0]


def _signs(evidence: Tensor, labels: Tensor) -> float:
    """Share of texts whose evidence has the label's sign."""
    return _mean((evidence.sign() == labels.sign()).float())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
