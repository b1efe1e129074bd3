"""A LoRA in closed form beside a trained one, at the same layers, of the same rank, from the same texts; and steers.

    python -m benchmarks.one_pass fit DATA      every method, from every number of texts; or some by name
    python -m benchmarks.one_pass write DATA    continuations of all that is fitted, at several strengths, scored
    python -m benchmarks.one_pass show          print the table, draw docs/figures/one-pass.svg

DATA is the folder of the data files. The learning rate and the number of steps of the trained LoRA are searched on
held-out texts; the time of that search is part of its fit. Every fit begins with an empty cache. Contrast and gain are
those of ``benchmarks.claims``. What is done already is kept. Results go to ``results/one_pass.json``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import typer

from benchmarks.claims import HELD_OUT, Bench
from benchmarks.data import labelled_texts
from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.one_pass import NAMES, SIZES, of_fit
from benchmarks.written import Writer, draw_shares
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.search import search
from lmsteer.baselines.steer import fit_steer, steer_baseline
from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.conditions import Steered, Unsteered
from lmsteer.fitting.site_names import DEEP, HEAD_ALONE
from lmsteer.generation.config import GenerationConfig
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.model.lora import from_tensors
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.sites import match_sites
from lmsteer.steer.steer import LowRank, Steer, factors_of
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "one_pass.json", HERE / "results" / "work" / "one_pass"
# Two layers of each block of the middle third, that write to the stream.
SITES, RANK = ("layers.1*.self_attn.o_proj", "layers.1*.mlp.down_proj"), 8
CLOSED = {"head": (HEAD_ALONE, None), "deep": ((DEEP,), None), "one-pass": (SITES, RANK)}
BUDGET = TrainingBudget(steps=50, search=True)
PROMPTS, PROTOCOL = slice(0, 100), GenerationConfig(num_samples=1, max_new_tokens=20, batch_size=100)
STRENGTHS = {"head": (3.0, 6.0), "deep": (3.0, 6.0), "one-pass": (3.0, 6.0), "trained": (0.5, 1.0)}
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.command("fit")
def fit_all(
    data: Data,
    names: Annotated[list[str] | None, typer.Argument(help="Of some methods.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Number of texts; all by default.")] = None,
) -> None:
    """Fit, time and read every method, or some."""
    check_known(names, NAMES)
    check_known(size, SIZES)
    texts = read_labelled(data / "sst5_train.jsonl.gz")
    held_out = labelled_texts(data, "sst5_dev")
    bench = Bench(load(), (), sample_texts(held_out, HELD_OUT, 0))
    for count in size or SIZES:
        for name in names or NAMES:
            if of_fit(name, count) not in load_results(RESULTS):
                save_result(RESULTS, of_fit(name, count), _fitted(bench, name, sample_texts(texts, count, 0)))


@app.command("write")
def write_all(data: Data, names: Annotated[list[str] | None, typer.Argument(help="Of some methods.")] = None) -> None:
    """Continuations of all that is fitted, or of some methods."""
    check_known(names, NAMES)
    lm, results = load(), load_results(RESULTS)
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[PROMPTS]
    writer = Writer(lm, prompts, PROTOCOL, WORK / "rows")
    for condition in (Unsteered(), *_conditions(results, names or [*NAMES])):
        if condition.name not in results:
            save_result(RESULTS, condition.name, writer.figures(condition))


@app.command("show")
def show() -> None:
    """Print the table and draw the picture."""
    print(TABLES["one-pass"]())
    found = [each for each in load_results(RESULTS).values() if "perplexity" in each]
    draw_shares(found, PICTURES / "one-pass.svg")


def _fitted(bench: Bench, name: str, texts: Sequence[LabelledText]) -> dict[str, Any]:
    """Fit a method, keep it, and read unseen texts with it."""
    with TemporaryDirectory() as cache, patch.dict(os.environ, LMSTEER_CACHE=cache):  # so that no fit finds another's
        started = time.perf_counter()
        if name == "trained":
            steer = _trained(bench.lm, texts)
        else:
            sites, rank = CLOSED[name]
            steer = fit_steer(bench.lm, texts, bars(), sites=sites, rank=rank).steer
        seconds = time.perf_counter() - started
    save_steer(steer, _folder(name, len(texts)))
    return {"seconds": seconds, "fit": steer.card.fit, **bench.gain(steer_baseline(steer))}


def _trained(lm: LM, texts: Sequence[LabelledText]) -> Steer:
    """The trained LoRA, as the steer that it is."""
    sites = match_sites(lm.model, SITES)
    make = partial(LoRATrainer, lm, [site.path for site in sites], RANK)
    trainer, record = search(lm, make, texts, BUDGET, bars())
    trained = from_tensors(trainer.baseline(Bench(lm, (), ()).card()).tensors)
    maps = {site.name: LowRank(trained[site.path].lora_A.T, trained[site.path].lora_B) for site in sites}
    vocabulary, d = lm.head.weight.shape
    return Steer("multiply", factors_of(maps, d), d, vocabulary, replace(lm.card("trained"), fit={**record}))


def _folder(name: str, count: int) -> Path:
    return WORK / f"{name}-{count}"


def _conditions(results: dict[str, Any], names: Sequence[str]) -> Iterator[Steered]:
    """What is fitted of some methods, at its strengths."""
    for count in SIZES:
        for name, label in NAMES.items():
            if name in names and of_fit(name, count) in results:
                steer = load_steer(_folder(name, count))
                for strength in sorted(sign * size for size in STRENGTHS[name] for sign in (-1, 1)):
                    method = f"{label}, {count:,} texts"
                    yield Steered(f"{method}, {strength:+g}", method, strength, {name: steer}, {name: strength})


if __name__ == "__main__":
    app()
