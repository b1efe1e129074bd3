"""How time and memory grow with texts, their length, rank, strengths and batch, published beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure import Ways, peak_bytes, seconds
from benchmarks.speed import BATCH, SAMPLES, TOKENS, Bench, alone
from lmsteer.data.labelled import read_labelled, sample_texts
from lmsteer.fitting.fit import Fit, fit
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.batching import TOKENS_PER_BATCH, pad
from lmsteer.model.loading import load
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import compute_rows, gather_rows
from lmsteer.reading.rows import LabelledRows

# 250 texts are where ours first reads better than the published recipe's 1,000 steps; 8,538 are all of sst5_train.
TEXTS = (250, 500, 1000, 2000, 4000, 8538)
LENGTHS = (16, 32, 64, 128, 256, 512)
RANKS = (8, 32, 128, 576)
STRENGTHS = (1, 4, 16, 64)
BATCHES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Curve:
    """How something grows.

    Attributes:
        what: grows.
        x: what it grows with.
        values: of x.
        naive: the published way, at each; None where there is none.
        ours: our way, at each.
    """

    what: str
    x: str
    values: Sequence[float]
    naive: Sequence[float] | None
    ours: Sequence[float]


@dataclass(frozen=True)
class FitOfTexts:
    """A fit of some SST-5 texts, in a process of its own.

    Attributes:
        texts: how many.
        seconds: of the fit; the model is loaded and its curvature known.
        peak: bytes above the loaded model.
        sign_accuracy: share of the SST-2 dev labels that it recovers.
        log_likelihood_gain: nats a token there, under the own label.
    """

    texts: int
    seconds: float
    peak: float
    sign_accuracy: float
    log_likelihood_gain: float


def fits_of_texts(data: Path) -> Iterator[FitOfTexts]:
    """Fits of more and more texts."""
    for count in TEXTS:
        yield alone(_fit_of_texts, data, count)


def curves(bench: Bench) -> Iterator[Curve]:
    """All curves but those of the number of texts."""
    yield _curve("seconds a text of the pass", "tokens a text", LENGTHS, lambda n: _pass(bench, n), _texts_of_length)
    many = f"seconds for {SAMPLES} continuations of {TOKENS} tokens"
    yield _curve(many, "rank of the steer", RANKS, lambda n: bench.continuations(SAMPLES, n))
    reading = "seconds to read a text of 100 tokens"
    yield _curve(reading, "strengths", STRENGTHS, lambda n: bench.analysis(1, [float(s) for s in range(n)]))
    each = f"seconds a continuation of {TOKENS} tokens"
    yield _curve(each, "continuations at once", BATCHES, bench.continuations, lambda n: n)


def _curve(
    what: str,
    x: str,
    values: Sequence[int],
    ways: Callable[[int], Ways],
    shared_by: Callable[[int], float] = lambda _: 1,
) -> Curve:
    naive, ours = [], []
    for value in values:
        line = replace(ways(value), repeats=3).measured()
        naive.append(line.naive / shared_by(value))
        ours.append(line.ours / shared_by(value))
    return Curve(what, x, values, naive, ours)


def _texts_of_length(length: int) -> int:
    return max(1, TOKENS_PER_BATCH // length)


def _pass(bench: Bench, length: int) -> Ways:
    """A batch of texts of one length; published: the steps that see them."""
    count = _texts_of_length(length)
    random = torch.Generator().manual_seed(length)
    ids = torch.randint(5, bench.lm.head.weight.shape[0], (count, length), generator=random)
    theirs = ids[:BATCH]
    return Ways(
        "a pass",
        lambda: bench.theirs.step_on(theirs, torch.ones_like(theirs), [1.0] * len(theirs)),
        lambda: compute_rows(bench.lm, ids.tolist()),
        times=count / len(theirs),
    )


def _fit_of_texts(data: Path, count: int) -> FitOfTexts:
    lm = load()
    lm.head.logits(lm.hidden_states(*pad([[1] * 8], 0, lm.device)))  # touches the weights, which may be mapped
    texts = read_labelled(data / "sst5_train.jsonl.gz")
    some = sample_texts(texts, count, seed=0) if count < len(texts) else texts
    fisher_factors(lm)
    with TemporaryDirectory() as folder:
        done: list[Fit] = []
        took = 0.0

        def work() -> None:
            nonlocal took
            took = seconds(lambda: done.append(fit(lm, some, name="s", out=Path(folder) / "s")))

        peak = peak_bytes(work)
    dev = read_labelled(data / "sst2_dev.jsonl.gz")
    reading = measure_held_out(
        lm, LabelledRows.join(list(gather_rows(lm, dev, encode_labelled(lm, dev)))), done[0].steer
    )
    return FitOfTexts(count, took, peak, reading.sign_accuracy, reading.log_likelihood_gain)
