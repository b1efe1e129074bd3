"""Metrics of a steer on labelled texts that it was not fitted on.

How much likelier do the texts get at the strength that is their label, does the steer recognise their label, and which
probability does its evidence stand for?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.reading.encode import start_tokens
from lmsteer.reading.encoded_text import begin_of, first_predicted
from lmsteer.reading.hidden_rows import gather_rows, text_batches
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.reading.platt import auc, fit_platt
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import directions_of, sweep_texts
from lmsteer.steer.platt import PlattScaling
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class HeldOutMetrics:
    """Metrics of a steer on labelled texts.

    Attributes:
        texts: number of texts.
        tokens: number of predicted tokens.
        log_likelihood_gain: log-likelihood at strength = label minus that at strength 0, in nats a token, over all
            texts.
        log_likelihood_gain_positive: the same at strength +1, over the texts of positive label.
        log_likelihood_gain_negative: the same at strength -1, over the texts of negative label.
        log_likelihood_gain_without_eos: ``log_likelihood_gain`` without the end-of-text tokens: there the steer acts
            as it does when the model generates.
        sign_accuracy: share of the texts with a label ≠ 0 whose evidence, log p(text | +1) - log p(text | -1), has
            the sign of the label.
        sign_accuracy_without_eos: the same without the end-of-text tokens.
        auc: area under the ROC curve of the evidence, texts of positive label against those of negative.
        slope: slope of the ``PlattScaling`` that makes a probability of the evidence that ``analyse`` finds.
        offset: offset of that scaling.
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
    slope: float = math.nan
    offset: float = math.nan

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> HeldOutMetrics:
        """The metrics that ``to_json`` wrote, as rounded as they are there."""
        names = [f.name for f in fields(cls)]
        values: dict[str, Any] = {name: math.nan if record[name] is None else record[name] for name in names}
        return cls(**values)

    def to_json(self) -> dict[str, float | None]:
        """The metrics, rounded to four decimals; None where there was no text to measure."""
        rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(self).items()}
        # The slope is small where texts are long, because their evidence is large.
        return rounded | {"slope": None if math.isnan(self.slope) else float(f"{self.slope:.4g}")}


def measure_held_out(lm: LM, rows: LabelledRows, steer: Steer, domain: Steer | None = None) -> HeldOutMetrics:
    """All metrics of a steer on labelled texts, its Platt scaling included.

    Args:
        lm: the steer's base.
        rows: rows of the texts; the residuals are not used.
        steer: the steer; its eos component acts where a text ends.
        domain: a domain steer that is always on at strength 1, except for the Platt scaling.
    """
    platt = fit_held_out_platt(lm, rows, steer)
    return replace(held_out_metrics(lm.head, rows, steer, domain), slope=platt.slope, offset=platt.offset)


def measure_texts(lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]], steer: Steer) -> HeldOutMetrics:
    """All metrics of a steer on labelled texts, which are read for it.

    Args:
        lm: the steer's base.
        texts: the texts.
        ids: their ids, as ``encode_readable`` gives them.
        steer: the steer. One that acts inside the model is read by a pass of the model for each strength.
    """
    rows = LabelledRows.join(list(gather_rows(lm, texts, ids)))
    if not steer.sites:
        return measure_held_out(lm, rows, steer)
    order = [i for batch in text_batches(ids) for i in batch]
    chosen, labels = [ids[i] for i in order], [texts[i].label for i in order]
    log_p = torch.cat([own[:, first_predicted(text) - 1 :] for own, text in _read(lm, chosen, labels, steer)], 1)
    before = start_tokens(lm)
    alone = [text if begin_of(text) else [*before, *text] for text in chosen]
    ends = steered_log_likelihoods(lm, alone, [steer], [-1.0, 1.0])
    evidence = [float((own[0, 1] - own[0, 0]).double().sum()) for own in ends]
    platt = _fit_platt(torch.tensor(evidence, dtype=torch.float64), torch.tensor(labels))
    return replace(_metrics(rows, rows.log_p, log_p), slope=platt.slope, offset=platt.offset)


def _read(
    lm: LM, ids: Sequence[Sequence[int]], labels: Sequence[float], steer: Steer
) -> Iterator[tuple[Tensor, Sequence[int]]]:
    """For each text its log-likelihoods (3, T - 1) at -1, +1 and its label; and the text."""
    ends = steered_log_likelihoods(lm, ids, [steer], [-1.0, 1.0])
    at_label = {end: {i: own[0, k] for i, own in enumerate(ends)} for k, end in enumerate((-1.0, 1.0))}
    for label in set(labels) - {-1.0, 1.0}:
        places = [i for i, own in enumerate(labels) if own == label]
        found = steered_log_likelihoods(lm, [ids[i] for i in places], [steer], [label])
        at_label[label] = {i: own[0, 0] for i, own in zip(places, found, strict=True)}
    for i, (text, label, own) in enumerate(zip(ids, labels, ends, strict=True)):
        yield torch.stack([*own[0], at_label[label][i]]), text


def held_out_metrics(head: Head, rows: LabelledRows, steer: Steer, domain: Steer | None = None) -> HeldOutMetrics:
    """The metrics that need no further pass of the model: all but the Platt scaling.

    Args:
        head: the head of the steer's base.
        rows: rows of the texts; the residuals are not used.
        steer: the steer; its eos component acts where a text ends.
        domain: a domain steer that is always on at strength 1.
    """
    base = rows.log_p if domain is None else _log_p(head, rows, steer, [0.0], domain)[0]
    return _metrics(rows, base, _log_p(head, rows, steer, [-1.0, 1.0, rows.label], domain))


def measure_folds(lm: LM, folds: Sequence[tuple[LabelledRows, Steer]]) -> HeldOutMetrics:
    """All metrics of a fit, on its own texts: each fold of them is read under a steer that was fitted without it.

    Args:
        lm: the steers' base.
        folds: rows of some of the texts, and a steer that was fitted on the others.
    """
    rows = LabelledRows.join([fold for fold, _ in folds])
    log_p = torch.cat([_log_p(lm.head, fold, steer, [-1.0, 1.0, fold.label]) for fold, steer in folds], 1)
    evidence, labels = (torch.cat(parts) for parts in zip(*(_evidence(lm, *fold) for fold in folds), strict=True))
    platt = _fit_platt(evidence, labels)
    return replace(_metrics(rows, rows.log_p, log_p), slope=platt.slope, offset=platt.offset)


def _log_p(
    head: Head, rows: LabelledRows, steer: Steer, strengths: Sequence[float | Tensor], domain: Steer | None = None
) -> Tensor:
    """Log-likelihood (S, N) of the tokens at each strength of a steer, whose eos component acts where a text ends."""
    steer.check_head_alone("what is measured on rows")
    return sweep_texts(head, rows.h, rows.target, rows.is_end, directions_of(head, [steer]), strengths, domain)[0]


def _metrics(rows: LabelledRows, base: Tensor, log_p: Tensor) -> HeldOutMetrics:
    """The metrics, from the log-likelihood of the tokens at strength 0 (N,), and at -1, +1 and the label (3, N)."""
    low, high, at_label = log_p
    inside = ~rows.is_end
    evidence, labels = _text_evidence(rows, high - low)
    return HeldOutMetrics(
        texts=len(rows.texts()[1]),
        tokens=len(rows),
        log_likelihood_gain=_mean(at_label - base),
        log_likelihood_gain_positive=_mean((high - base)[rows.label > 0]),
        log_likelihood_gain_negative=_mean((low - base)[rows.label < 0]),
        log_likelihood_gain_without_eos=_mean((at_label - base)[inside]),
        sign_accuracy=_sign_accuracy(evidence, labels),
        sign_accuracy_without_eos=_sign_accuracy(*_text_evidence(rows[inside], (high - low)[inside])),
        auc=auc(evidence, labels > 0),
    )


def fit_held_out_platt(lm: LM, rows: LabelledRows, steer: Steer) -> PlattScaling:
    """The Platt scaling of the evidence that ``analyse`` finds in the texts."""
    return _fit_platt(*_evidence(lm, rows, steer))


def _fit_platt(evidence: Tensor, labels: Tensor) -> PlattScaling:
    return fit_platt(evidence[labels != 0], labels[labels != 0] > 0)


def _evidence(lm: LM, rows: LabelledRows, steer: Steer) -> tuple[Tensor, Tensor]:
    """The evidence that ``analyse`` finds in each text (N,), and the label of each (N,).

    ``analyse`` reads a text without a prompt after the model's start token, while the rows of a fit are read without
    it. So these texts are read again, in one pass over their ids, which the rows hold. A text after a prompt is read in
    one way only.
    """
    prompted = rows.after_prompt()
    alone, after = rows[~prompted], rows[prompted]
    ids, labels = alone.token_ids()
    before = start_tokens(lm)
    log_p = steered_log_likelihoods(lm, [[*before, *text] for text in ids], [steer], [-1.0, 1.0])
    evidence = torch.tensor([float((of[0, 1] - of[0, 0]).double().sum()) for of in log_p], dtype=torch.float64)
    if len(after):
        low, high = _log_p(lm.head, after, steer, [-1.0, 1.0])
        evidence = torch.cat([evidence, after.per_text((high - low).double())])
        labels = torch.cat([labels, after.texts()[1]])
    return evidence, labels


def _text_evidence(rows: LabelledRows, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence (N,) summed over each text with a label ≠ 0, and the labels of those texts."""
    _, labels = rows.texts()
    return rows.per_text(evidence)[labels != 0], labels[labels != 0]


def _sign_accuracy(evidence: Tensor, labels: Tensor) -> float:
    """Share of texts whose evidence has the label's sign."""
    return _mean((evidence.sign() == labels.sign()).float())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan
