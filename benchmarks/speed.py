"""Speed and memory, ours beside the published loops: one function a line of the table."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from benchmarks.measure import Line, Machine, Ways, peak_bytes
from benchmarks.naive import Published
from lmsteer.data.labelled import LabelledText
from lmsteer.data.starter import starter_texts
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable
from lmsteer.reading.hidden_rows import compute_rows, text_batches
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.util.provenance import provenance_of

P = ParamSpec("P")
T = TypeVar("T")
PROMPT = "I went to the new restaurant on the corner and"
TOKENS, SAMPLES = 20, 25
STRENGTHS = [float(s) for s in range(-6, 7)]
STEPS, BATCH = 1000, 32
# That of the steers that a fit makes of SST texts.
RANK = 128


class Bench:
    """The model, as we and as others load it, and texts to work on."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.lm, self.theirs, self.machine, self.folder = load(), Published(), machine, folder
        self.texts = starter_texts("sentiment")
        self.steer = lru_cache(lambda rank: steer_of(self.lm, rank))
        parameters = sum(p.numel() for p in self.lm.model.parameters())
        self.head_operations = 2 * self.lm.head.weight.numel()
        self.body_operations = 2 * parameters - self.head_operations
        self.weight_bytes = sum(p.numel() * p.element_size() for p in self.lm.model.parameters())
        for lm in (self.lm, self.theirs.lm):  # touches the weights, which may be mapped, and have them counted
            lm.head.logits(lm.hidden_states(*pad([[1] * 8], 0, lm.device)))

    def floor(self, body_tokens: float, head_products: float) -> float:
        """Seconds of so many tokens through the body and so many rows through the head."""
        return (body_tokens * self.body_operations + head_products * self.head_operations) / self.machine.matrix_rate

    def recipe_step(self) -> Ways:
        """A step of the published recipe: through the whole model, and on stored rows."""
        texts = self.texts[:BATCH]
        rows = TextRows(HiddenStates(self.lm, encode_labelled(self.lm, texts)), texts).rows(range(BATCH))
        training = Training(self.lm.hidden_size, GradientConfig(), self.lm.head.device)
        return Ways(
            f"a step of the published recipe, {BATCH} texts",
            lambda: self._their_step(texts),
            lambda: training.train_on(self.lm.head, rows),
            floor=self.floor(0, 2 * len(rows)),
        )

    def fit(self) -> Ways:
        """Our whole fit, the store filled on the way; published: 1,000 of its steps."""

        def ours() -> None:
            shutil.rmtree(open_activation_cache(self.lm, encode_readable(self.lm, self.texts)[1]))
            self._fit(self.texts)

        return Ways(
            f"a steer from {len(self.texts)} texts",
            lambda: self._their_step(self.texts[:BATCH]),
            ours,
            times=STEPS,
            note=f"published: {STEPS:,} x a step",
            repeats=1,
        )

    def next_dimension(self) -> Ways:
        """Another labelling of the same texts; published: 1,000 steps again."""
        self._fit(self.texts)
        reversed_labels = [replace(text, label=-text.label) for text in self.texts]
        return replace(
            self.fit(), what="the next dimension on the same texts", ours=lambda: self._fit(reversed_labels), repeats=3
        )

    def one_pass(self) -> Ways:
        """A pass over some texts; published: the steps that see as many."""
        ids = encode_labelled(self.lm, self.texts)[:128]
        tokens = sum(len(text) - 1 for text in ids)
        return Ways(
            f"a pass over {len(ids)} texts",
            lambda: self._their_step(self.texts[:BATCH]),
            lambda: [compute_rows(self.lm, [ids[i] for i in batch]) for batch in text_batches(ids)],
            times=len(ids) / BATCH,
            floor=self.floor(tokens, 2 * tokens),
            note="published: steps that see them",
            repeats=3,
        )

    def body(self) -> Ways:
        """The body of the model alone, in the batches of a pass."""
        ids = encode_labelled(self.lm, self.texts)[:128]
        padded = [pad([ids[i] for i in batch], 0, self.lm.device) for batch in text_batches(ids)]
        return Ways(
            f"the body of that pass, {1 - sum(map(len, ids)) / sum(p.numel() for p, _ in padded):.0%} of it padding",
            lambda: [self.theirs.lm.hidden_states(*batch) for batch in padded],
            lambda: [self.lm.hidden_states(*batch) for batch in padded],
            floor=self.floor(sum(batch.numel() for batch, _ in padded), 0),
            note="published: the model as transformers loads it",
        )

    def one_continuation(self) -> Ways:
        """One continuation of a prompt, steered."""
        return self.continuations(1)

    def many_continuations(self) -> Ways:
        """Several of one prompt."""
        return self.continuations(SAMPLES)

    def continuations(self, count: int, rank: int = RANK) -> Ways:
        """Some continuations of one prompt; published: that many times one."""
        tokens = len(self.lm.encode([PROMPT])[0]) - 1 + count * TOKENS
        bytes_read = TOKENS * self.weight_bytes
        return Ways(
            f"{count} continuation{'s' * (count > 1)} of {TOKENS} tokens",
            lambda: self.theirs.generate(PROMPT, 3.0, TOKENS, seed=0),
            lambda: self._generate(count, 1.0, rank),
            times=count,
            floor=max(self.floor(tokens, count * TOKENS), bytes_read / self.machine.bandwidth),
            note="" if count == 1 else f"published: {count} x one",
        )

    def one_analysis(self) -> Ways:
        """One text read at 13 strengths, with evidence."""
        return self.analysis(1, STRENGTHS)

    def many_analyses(self) -> Ways:
        """Many texts."""
        return self.analysis(64, STRENGTHS)

    def analysis(self, count: int, strengths: list[float]) -> Ways:
        """Likelihood at some strengths, and evidence, of texts of about 100 tokens; published: that many times one."""
        ids = self.lm.encode([" ".join(text.text for text in self.texts)])[0]
        texts = [str(self.lm.tokenizer.decode(ids[100 * i : 100 * (i + 1)])) for i in range(count)]
        encoded = self.lm.encode(texts)
        rows = sum(len(text) - 1 for text in encoded)
        steer = self.steer(RANK)
        return Ways(
            f"{count} text{'s' * (count > 1)} of 100 tokens at {len(strengths)} strengths, with evidence",
            lambda: self.theirs.analyse(texts[0], strengths),
            lambda: [
                found[0, -1] - found[0, 0] for found in steered_log_likelihoods(self.lm, encoded, [steer], strengths)
            ],
            times=count,
            floor=self.floor(rows, rows * (1 + RANK / self.lm.hidden_size)),
            note="" if count == 1 else f"published: {count} x one",
            repeats=3,
        )

    def steered(self, rank: int = RANK) -> Ways:
        """Our decoding without a steer beside that with one: a ratio below one is what the steer costs."""
        return Ways(
            f"{SAMPLES} continuations, unsteered against steered",
            lambda: self._generate(SAMPLES, None),
            lambda: self._generate(SAMPLES, 1.0, rank),
            repeats=15,
        )

    def merged(self) -> Ways:
        """Our decoding beside that with the steer merged into a head of its own."""
        module, own = self.lm.head.module, self.lm.head.weight
        merged = own + own @ self.steer(RANK).matrix().T

        def ours() -> None:
            module.weight = nn.Parameter(merged, requires_grad=False)
            try:
                self._generate(SAMPLES, None)
            finally:
                module.weight = nn.Parameter(own, requires_grad=False)

        what = f"{SAMPLES} continuations, unsteered against merged"
        return Ways(what, lambda: self._generate(SAMPLES, None), ours, repeats=15)

    def _their_step(self, texts: list[LabelledText]) -> None:
        self.theirs.fit_step([text.text for text in texts], [text.label for text in texts])

    def _fit(self, texts: list[LabelledText]) -> None:
        fit(self.lm, texts, name="s", out=self.folder / "s", config=FitConfig(cache_activations=True))

    def _generate(self, count: int, strength: float | None, rank: int = RANK) -> None:
        steers = {} if strength is None else {"s": self.steer(rank)}
        setting = {} if strength is None else {"s": strength}
        list(generate(self.lm, [PROMPT], steers, [setting], GenerationConfig(count, TOKENS)))


LINES: list[Callable[[Bench], Ways]] = [
    Bench.recipe_step,
    Bench.fit,
    Bench.next_dimension,
    Bench.one_pass,
    Bench.body,
    Bench.one_continuation,
    Bench.many_continuations,
    Bench.one_analysis,
    Bench.many_analyses,
    Bench.steered,
    Bench.merged,
]


def steer_of(lm: LM, rank: int) -> Steer:
    """A small random steer: what steering costs does not depend on the numbers in it."""
    vocabulary, d = lm.head.weight.shape
    random = torch.Generator().manual_seed(0)
    factors = {name: torch.randn(d, rank, generator=random) * 1e-3 for name in ("A", "B")}
    return Steer("multiply", factors, d, vocabulary, Card(name="s", **provenance_of(lm)))


def with_memory(line: Line, number: int) -> Line:
    """A line with the peaks of both ways, each run in a process of its own."""
    naive, ours = (alone(_peak_of, number, way) for way in ("naive", "ours"))
    return replace(line, naive_bytes=naive, our_bytes=ours)


def alone(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run something in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **named).result()


def _peak_of(number: int, way: str) -> float:
    with TemporaryDirectory() as folder:
        return peak_bytes(getattr(LINES[number](Bench(Machine(1, 1, 1), Path(folder))), way))
