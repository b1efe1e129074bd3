"""Better than one step? Variants of the closed form, on one set of texts: a table, and results/variants.json.

python -m benchmarks.variants DATA      DATA: as for benchmarks.main_job

Each fits the same 2,000 SST-5 texts and is read on SST-2 dev, inside the texts, and steers prompts that the main
job's figures do not use. Shares are compared at one perplexity, read between the strengths tried: 420 continuations
each, so that a share is good to some two points.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.main_job import TEXTS
from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.scorers import Vader
from lmsteer.evaluation.strength_curve import Point, strength_curve
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.fitting.closed_form import NaturalGradient, solve
from lmsteer.fitting.eos_component import fit_eos_component
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training, train
from lmsteer.fitting.scale import gains_at, largest_scale
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.unconditional import (
    FISHER_SEED,
    FISHER_TEXTS,
    FISHER_TOKENS,
    fisher_factors,
    sample_unconditional,
)
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable
from lmsteer.reading.encoded_text import EncodedText
from lmsteer.reading.held_out import HeldOutMetrics, measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.splits import held_out_of
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.util.files import write_file
from lmsteer.util.linalg import factorise, weighted_product
from lmsteer.util.provenance import provenance_of

RESULTS = Path(__file__).parent / "results" / "variants.json"
PROMPTS, SAMPLES = slice(200, 340), 3
STRENGTHS = (-9.0, -7.0, -5.0, -3.0, 0.0, 3.0, 5.0, 7.0)
# Perplexities, as multiples of the unsteered one, at which the two sides are compared.
POSITIVE_AT, NEGATIVE_AT = 1.2, 1.8
# The dampings that the fit chooses on these texts.
DAMPINGS = (10.0, 0.03)
REFINING_STEPS = 50

Factors = dict[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """What every variant starts from: the model, the texts with their stored states, their statistics."""

    lm: LM
    texts: list[LabelledText]
    ids: list[EncodedText]
    states: HiddenStates
    statistics: Statistics
    curvature: FisherFactors

    @classmethod
    def of(cls, lm: LM, data: Path) -> Texts:
        """The main job's texts."""
        texts, ids = encode_readable(lm, sample_texts(read_labelled(data / "sst5_train.jsonl.gz"), TEXTS, seed=0))
        states = HiddenStates(lm, ids, open_activation_cache(lm, ids))
        return cls(lm, texts, ids, states, gather_statistics(states, texts, Statistics.empty(lm)), fisher_factors(lm))

    def weighted(
        self, weights: Callable[[LabelledRows], Tensor], residuals: Callable[[LabelledRows], Tensor]
    ) -> Statistics:
        """The statistics with a weight for each token, and residuals taken elsewhere."""
        sums = {name: torch.zeros_like(self.statistics.sums[name]) for name in ("G", "D")}
        held, total, label = self.statistics.held_out.digest[:, 1].unique(), 0.0, 0.0
        for number in range(len(self.states.batches)):
            rows = self.states.rows(number, self.texts)
            rows = rows[~rows.is_end & ~torch.isin(rows.digest[:, 1], held)]
            weight, r = weights(rows).double(), residuals(rows)
            sums["D"] += weighted_product(rows.h, r, weight)
            sums["G"] += weighted_product(rows.h, r, weight * rows.label)
            total, label = total + float(weight.sum()), label + float((weight * rows.label).sum())
        share = self.statistics.counts.tokens / total
        return replace(
            self.statistics,
            sums=self.statistics.sums | {name: one * share for name, one in sums.items()},
            counts=replace(self.statistics.counts, label=label * share),
        )

    def solved(self, statistics: Statistics | None = None, curved: FisherFactors | None = None) -> Factors:
        """The closed form's factors."""
        solution = solve(statistics or self.statistics, curved or self.curvature, self.lm.head)
        return {name: solution.factors[name] for name in ("A", "B")}

    def rescaled(self, factors: Factors) -> Factors:
        """The same W in the closed form's unit of strength."""
        inside = self.statistics.held_out[~self.statistics.held_out.is_end]
        root = math.sqrt(largest_scale(self.lm.head, inside, factors["A"], factors["B"]))
        return {name: factor * root for name, factor in factors.items()}


def as_it_is(texts: Texts) -> Factors:
    """Labels and credit, one step."""
    return texts.solved()


def labels_alone(texts: Texts) -> Factors:
    """No credit."""
    return texts.solved(replace(texts.statistics, sample=()))


def exact_f(texts: Texts) -> Factors:
    """F = E[Cov_p(e)] = Eᵀ diag(p̄) E - E[ē ēᵀ], in place of the residuals of drawn tokens."""
    head = texts.lm.head
    h, _ = sample_unconditional(texts.lm, FISHER_TEXTS, FISHER_TOKENS, FISHER_SEED)
    mean_p, means = torch.zeros(len(head.weight), dtype=torch.float64), []
    for (rows,) in head.pieces(h):
        p = head.logits(rows).softmax(-1)
        mean_p += p.double().sum(0) / len(h)
        means.append(p @ head.weight)
    mean, even = torch.cat(means), torch.full((len(h),), 1 / len(h), dtype=torch.float64)
    f = weighted_product(head.weight, head.weight, mean_p) - weighted_product(mean, mean, even)
    return texts.solved(curved=replace(texts.curvature, f=f))


def per_class(texts: Texts) -> Factors:
    """A gradient for texts above the mean label and one for those below, each of length 1 in the Fisher metric."""
    counts = texts.statistics.counts
    mean = counts.label / counts.tokens
    above, below = (
        texts.weighted(lambda rows, side=side: (side * (rows.label - mean)).clamp(min=0), _own).sums["D"]  # type: ignore[misc]
        for side in (1, -1)
    )
    total = above / _length(above, texts.curvature) - below / _length(below, texts.curvature)
    sums = texts.statistics.sums | {"G": total}
    return texts.solved(replace(texts.statistics, sums=sums, counts=replace(counts, label=0.0)))


def by_surprise(texts: Texts) -> Factors:
    """Each token weighed by its surprise."""
    return texts.solved(texts.weighted(lambda rows: -rows.log_p, _own))


def by_evidence(texts: Texts) -> Factors:
    """Each token weighed by how far the reading of the text up to it agrees with the label."""
    end = fit_eos_component(texts.statistics, texts.curvature, texts.lm.head)
    assert end is not None
    readings = torch.cat([rows.h.double() @ end.probe for rows in texts.statistics.sample])

    def weights(rows: LabelledRows) -> Tensor:
        return (rows.label * (rows.h.double() @ end.probe - readings.mean()) / readings.std()).sigmoid()

    return texts.solved(texts.weighted(weights, _own))


def second_step(texts: Texts) -> Factors:
    """The gradient taken again where the first step has led, and the best of a quarter to all of its step added."""
    head, first = texts.lm.head, texts.solved()

    def residuals(rows: LabelledRows) -> Tensor:
        moved = rows.label[:, None] * ((rows.h @ first["A"]) @ first["B"].T)
        return head.residuals(rows.h + moved, rows.target)[0]

    again = texts.weighted(lambda rows: torch.ones_like(rows.label), residuals)
    w = (first["A"] @ first["B"].T).double()
    step = NaturalGradient.of_statistics(again, texts.curvature).matrix(*DAMPINGS)
    rank, inside = first["A"].shape[1], texts.statistics.held_out[~texts.statistics.held_out.is_end]
    tried = [factorise(w + share * float(w.norm() / step.norm()) * step, rank)[:2] for share in (0.25, 0.5, 1.0)]
    best = max(tried, key=lambda ab: float(gains_at(head, inside, [ab], [0.5, 1.0])[0].mean(1).max()))
    return texts.rescaled({"A": best[0], "B": best[1]})


def refined(texts: Texts) -> Factors:
    """Fifty steps of Adam from there, a hundredth of the factors' size each: one epoch."""
    first = texts.solved()
    size = float(torch.cat([first["A"], first["B"]]).square().mean().sqrt())
    rank = first["A"].shape[1]
    config = GradientConfig(steps=REFINING_STEPS, rank=rank, epsilon=1.0, learning_rate=size / 100, domain=False)
    training = Training(texts.lm.hidden_size, config, texts.lm.head.device)
    for name, factor in first.items():
        training.factors[name].data.copy_(factor)
    chosen = set(held_out_of(texts.texts, texts.ids))
    seen = [i for i in range(len(texts.texts)) if i not in chosen]
    train(training, TextRows(texts.states, texts.texts), texts.lm.head, seen, lambda *_: None)
    return texts.rescaled(training.factors_of(""))


VARIANTS: list[Callable[[Texts], Factors]] = [
    as_it_is,
    labels_alone,
    exact_f,
    per_class,
    by_surprise,
    by_evidence,
    second_step,
    refined,
]


def main(data: Path) -> None:
    """Fit every variant, read with it and generate with it."""
    console, lm = Console(width=150), load()
    texts = Texts.of(lm, data)
    dev = read_labelled(data / "sst2_dev.jsonl.gz")
    rows = LabelledRows.join(list(gather_rows(lm, dev, encode_labelled(lm, dev))))
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[PROMPTS]
    found, table = {}, Table("", "SST-2 dev, nats", "signs", f"positive at {POSITIVE_AT} ×", f"at {NEGATIVE_AT} ×")
    for variant in VARIANTS:
        steer = _steer(lm, variant(texts))
        reading, points = measure_held_out(lm, rows, steer), _curve(lm, prompts, steer)
        found[variant.__name__] = {"reading": reading.to_json(), "curve": [asdict(point) for point in points]}
        table.add_row((variant.__doc__ or "").split("\n")[0], *_cells(reading, points))
        console.print(variant.__name__, *_cells(reading, points), highlight=False)
        write_file(RESULTS, json.dumps(found, indent=1) + "\n")
    console.print(table)


def _length(gradient: Tensor, curved: FisherFactors) -> float:
    """In the damped Fisher metric: tr(Gᵀ C⁻¹ G F⁻¹)^½."""
    identity = torch.eye(len(gradient), dtype=torch.float64)
    c, f = (
        m + damping * m.diagonal().mean() * identity for m, damping in zip((curved.c, curved.f), DAMPINGS, strict=True)
    )
    step = torch.linalg.solve(f, torch.linalg.solve(c, gradient).T).T
    return float((step * gradient).sum().sqrt())


def _own(rows: LabelledRows) -> Tensor:
    return rows.r


def _steer(lm: LM, factors: Factors) -> Steer:
    vocabulary, d = lm.head.weight.shape
    return Steer("multiply", factors, d, vocabulary, Card(name="v", **provenance_of(lm)))


def _curve(lm: LM, prompts: Sequence[str], steer: Steer) -> list[Point]:
    settings = [{"v": strength} for strength in STRENGTHS]
    config = GenerationConfig(SAMPLES, max_new_tokens=20, score=True, batch_size=144)
    return strength_curve(list(generate(lm, prompts, {"v": steer}, settings, config)), "v", Vader())


def _cells(reading: HeldOutMetrics, points: Sequence[Point]) -> list[str]:
    sides = [
        (POSITIVE_AT, [p for p in points if p.strength >= 0]),
        (NEGATIVE_AT, [p for p in reversed(points) if p.strength <= 0]),
    ]
    return [
        f"{reading.log_likelihood_gain_without_eos:+.4f}",
        f"{reading.sign_accuracy_without_eos:.1%}",
        *(_share_at(at, side) for at, side in sides),
    ]


def _share_at(ratio: float, side: Sequence[Point]) -> str:
    """The positive share where one side of a strength curve, from 0 outwards, first reaches a perplexity."""
    ratios = [point.perplexity / side[0].perplexity for point in side]
    for k in range(1, len(side)):
        if ratios[k] >= ratio:
            part = math.log(ratio / ratios[k - 1]) / math.log(ratios[k] / ratios[k - 1])
            before, after = side[k - 1].positive_share, side[k].positive_share
            return f"{before + part * (after - before):.1%}"
    return f"{side[-1].positive_share:.1%} at {ratios[-1]:.2f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
