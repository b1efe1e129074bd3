"""Speed and memory, ours beside the published loops, in one process."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from benchmarks.measure import Line, Machine, in_turn, seconds
from benchmarks.naive import Published
from lmsteer.analysis.likelihood import likelihoods
from lmsteer.evaluation.reading import read
from lmsteer.fitting.data import LabelledText, read_labelled, sample_texts
from lmsteer.fitting.fit import Fit, fit
from lmsteer.fitting.gradient import Recipe, TextRows, Training
from lmsteer.fitting.rows import Rows, batches, encode_whole, gather, readable, states_of
from lmsteer.fitting.store import HiddenStates, open_store
from lmsteer.generation import generate
from lmsteer.lm import LM, load
from lmsteer.starter import starter_texts
from lmsteer.steers.steer import Steer

PROMPT = "I went to the new restaurant on the corner and"
TOKENS, SAMPLES = 20, 25
STRENGTHS = [float(s) for s in range(-6, 7)]
STEPS, BATCH = 1000, 32


class Bench:
    """The model, a steer on it, and texts to work on."""

    def __init__(self, lm: LM, machine: Machine, folder: Path) -> None:
        self.lm, self.machine, self.folder = lm, machine, folder
        self.texts = starter_texts("sentiment")
        parameters = sum(p.numel() for p in lm.model.parameters())
        self.head = 2 * lm.head.weight.numel()
        self.body = 2 * (parameters - lm.head.weight.numel())
        self.theirs = Published(lm)
        self.step = 0.0
        self.steer: Steer | None = None

    def floor(self, body_tokens: float, head_products: float) -> float:
        """Seconds of so many tokens through the body and so many rows through the head."""
        return (body_tokens * self.body + head_products * self.head) / self.machine.matrix_rate

    def lines(self, data: Path | None = None) -> Iterator[Line]:
        """All lines of the table, one after the other; some only with the folder of SST data."""
        yield self.recipe_step()
        yield self.fit()
        yield self.next_dimension()
        yield self.one_pass()
        yield self.continuations(1)
        yield self.continuations(SAMPLES)
        yield self.analysis(1)
        yield self.analysis(64)
        yield self.steered()
        if data is not None:
            yield self.recipes_result(data, 250)

    def recipe_step(self) -> Line:
        """A step of the published recipe: through the whole model, and on stored rows."""
        texts = self.texts[:BATCH]
        ids = encode_whole(self.lm, texts)
        rows = TextRows(HiddenStates(self.lm, ids), texts).rows(range(BATCH))
        training = Training(self.lm.hidden_size, Recipe())
        naive, ours = in_turn(
            lambda: self.theirs.fit_step([text.text for text in texts], [text.label for text in texts]),
            lambda: training.train_on(self.lm.head, rows),
        )
        self.step = naive
        return Line(f"a step of the published recipe, {BATCH} texts", naive, ours, self.floor(0, 2 * len(rows)))

    def fit(self) -> Line:
        """Our whole fit, the store filled on the way; published: 1,000 of its steps."""
        shutil.rmtree(open_store(self.lm, readable(self.lm, self.texts)[1]))  # of an earlier run
        ours = seconds(lambda: self._fit(self.texts, "first"))
        return Line(
            f"a steer from {len(self.texts)} texts", STEPS * self.step, ours, note=f"published: {STEPS} x its step"
        )

    def next_dimension(self) -> Line:
        """Another labelling of the same texts."""
        turned = [replace(text, label=-text.label) for text in self.texts]
        (ours,) = in_turn(lambda: self._fit(turned, "next"), repeats=3)
        return Line("the next dimension on the same texts", STEPS * self.step, ours, note="from the store")

    def one_pass(self) -> Line:
        """A pass over some texts; published: the steps that see as many."""
        ids = encode_whole(self.lm, self.texts)[:128]
        tokens = sum(len(text) - 1 for text in ids)
        (ours,) = in_turn(lambda: [states_of(self.lm, [ids[i] for i in batch]) for batch in batches(ids)], repeats=3)
        naive = self.step * len(ids) / BATCH
        return Line(
            f"a pass over {len(ids)} texts",
            naive,
            ours,
            self.floor(tokens, 2 * tokens),
            "published: steps that see them",
        )

    def continuations(self, count: int) -> Line:
        """Continuations of one prompt, steered."""
        steers = {"s": self._steer()}
        one, all_of_ours = in_turn(
            lambda: self.theirs.generate(PROMPT, 3.0, TOKENS, seed=0),
            lambda: list(generate(self.lm, [PROMPT], steers, [{"s": 3.0}], n=count, max_new_tokens=TOKENS)),
        )
        tokens = len(self.lm.encode([PROMPT])[0]) - 1 + count * TOKENS
        note = "" if count == 1 else f"published: {count} x one"
        floor = max(self.floor(tokens, count * TOKENS), TOKENS * self._weights() / self.machine.bandwidth)
        return Line(f"{_count(count, 'continuation')} of {TOKENS} tokens", count * one, all_of_ours, floor, note)

    def analysis(self, count: int) -> Line:
        """Likelihood at 13 strengths and evidence of texts of about 100 tokens."""
        long = " ".join(text.text for text in self.texts)
        ids = self.lm.encode([long])[0]
        texts = [str(self.lm.tokenizer.decode(ids[100 * i : 100 * (i + 1)])) for i in range(count)]
        steer = self._steer()
        one, all_of_ours = in_turn(
            lambda: self.theirs.analyse(texts[0], STRENGTHS),
            lambda: [found.evidence() for found in likelihoods(self.lm, texts, steer, STRENGTHS)],
            repeats=3,
        )
        rows = sum(len(text) - 1 for text in self.lm.encode(texts))
        note = "" if count == 1 else f"published: {count} x one"
        what = f"{_count(count, 'text')} of 100 tokens at {len(STRENGTHS)} strengths, with evidence"
        return Line(
            what, count * one, all_of_ours, self.floor(rows, rows * (1 + steer.rank / self.lm.hidden_size)), note
        )

    def steered(self) -> Line:
        """Our decoding without a steer beside that with one: a ratio below one is what the steer costs."""
        steers = {"s": self._steer()}

        def run(strength: float | None) -> Callable[[], object]:
            named = {"s": strength} if strength is not None else {}
            return lambda: list(
                generate(self.lm, [PROMPT], steers if named else {}, [named], n=SAMPLES, max_new_tokens=TOKENS)
            )

        plain, ours = in_turn(run(None), run(3.0), repeats=7)
        return Line(f"{SAMPLES} continuations, unsteered against steered", plain, ours)

    def recipes_result(self, data: Path, texts: int) -> Line:
        """A steer from a few SST-5 texts, and what it reads of SST-2 dev; published: the recipe's 1,000 steps."""
        few = sample_texts(read_labelled(data / "sst5_train.jsonl.gz"), texts, seed=0)
        batch = few[:BATCH]
        (step,) = in_turn(lambda: self.theirs.fit_step([t.text for t in batch], [t.label for t in batch]), repeats=3)
        done: list[Fit] = []
        ours = seconds(lambda: done.append(fit(self.lm, few, name="few", out=self.folder / "few")))
        dev = read_labelled(data / "sst2_dev.jsonl.gz")
        rows = Rows.join(list(gather(self.lm, dev, encode_whole(self.lm, dev))))
        reading = read(self.lm.head, rows, done[0].steer)
        note = f"SST-2 dev: {reading.signs:.1%} of signs, {reading.gain:+.3f} nats; published: {STEPS} x its step"
        return Line(f"a steer from {texts} SST-5 texts", STEPS * step, ours, note=note)

    def _fit(self, texts: list[LabelledText], name: str) -> None:
        done = fit(self.lm, texts, name=name, out=self.folder / name, store=True)
        self.steer = done.steer

    def _steer(self) -> Steer:
        assert self.steer is not None
        return self.steer

    def _weights(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.lm.model.parameters())


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def memory_of_a_fit() -> float:
    """Peak bytes above the loaded model while a fit runs, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_memory_of_a_fit).result()


def _memory_of_a_fit() -> float:
    lm = load()
    ids = torch.ones(1, 8, dtype=torch.int64)
    lm.head.logits(lm.hidden_states(ids, torch.ones_like(ids)))  # touches the weights, which are mapped when read
    gc.collect()
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with TemporaryDirectory() as folder:
            fit(lm, starter_texts("sentiment"), name="s", out=Path(folder) / "s")
    finally:
        done.set()
        watcher.join()
    return peak - before
