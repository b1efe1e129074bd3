"""Gists on the default model: what they keep of a prompt, by number of gist tokens, beside their controls.

    python -m benchmarks.gists fit DATA      every adapter; NAME-longer for a GPU
    python -m benchmarks.gists write DATA    outputs of held-out instructions, each way
    python -m benchmarks.gists show          print the tables, draw docs/figures/gist-learning-curve.svg
    python -m benchmarks.gists ship          put the adapter of one gist token into the package

DATA is the folder of the data files. What is done already is kept. Results go to ``results/gists.json``
and ``results/gist_curves.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure

from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.gists import gap_closed
from lmsteer.data.instructions import Instruction, read_instructions
from lmsteer.gist.adapter import GistAdapter, load_adapter, save_adapter
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.embedding import initial_embedding
from lmsteer.gist.evaluate import GistMetrics, evaluate
from lmsteer.gist.fit import fit_gist
from lmsteer.gist.lookup import SHIPPED_FOLDER, GistCard
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars
from lmsteer.util.provenance import provenance_of

HERE = Path(__file__).parent
RESULTS, CURVES = HERE / "results" / "gists.json", HERE / "results" / "gist_curves.json"
WORK = HERE / "results" / "work" / "gists"
# A quarter to half an hour each on two cores.
FITS = {
    "gist-1": GistConfig(1),
    "negative": GistConfig(1, condition=GistCondition.NEGATIVE),
    "positive": GistConfig(1, condition=GistCondition.POSITIVE),
    "gist-10": GistConfig(10),
    "gist-5": GistConfig(5),
    "gist-2": GistConfig(2),
}
# For a GPU: nearly five times the examples.
LONGER = "-longer"
LONGER_FITS = {
    f"{name}{LONGER}": replace(config, steps=600, batch_size=64, tokens_per_microbatch=1 << 14)
    for name, config in FITS.items()
}
SPLITS = ("seen", "unseen", "human")
OURS, MIDDLE, THEIRS = "#1f7a5a", "#667085", "#b4462f"
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@dataclass(frozen=True)
class Way:
    """A way to have a prompt act.

    Attributes:
        adapter: under which name it was fitted; none for the model as it comes.
        condition: what outputs see.
        words: of the instruction that are left; none for all.
    """

    adapter: str | None
    condition: GistCondition
    words: int | None = None


WAYS = {
    "whole prompt": Way("positive", GistCondition.POSITIVE),
    "no prompt": Way("negative", GistCondition.NEGATIVE),
    "gist, 1 token": Way("gist-1", GistCondition.GIST),
    "gist, 2 tokens": Way("gist-2", GistCondition.GIST),
    "gist, 5 tokens": Way("gist-5", GistCondition.GIST),
    "gist, 10 tokens": Way("gist-10", GistCondition.GIST),
    "first 2 words": Way("positive", GistCondition.POSITIVE, 2),
    "first 5 words": Way("positive", GistCondition.POSITIVE, 5),
    "whole prompt, model as it comes": Way(None, GistCondition.POSITIVE),
}
LONGER_WAYS = {
    f"{name}{LONGER}": replace(way, adapter=f"{way.adapter}{LONGER}")
    for name, way in WAYS.items()
    if way.adapter and not way.words
}


@app.command("fit")
def fit_all(data: Data, names: Annotated[list[str] | None, typer.Argument(help="Some of them.")] = None) -> None:
    """Fit every adapter, or some.

    In bfloat16, which takes two thirds of the time where the processor multiplies it; torch's fused attention is slow
    there, but not on a GPU. What is trained is kept in float32, and what comes of it is measured in float32.
    """
    known = FITS | LONGER_FITS
    check_known(names, known)
    lm = load(dtype=torch.bfloat16, attn_implementation="sdpa" if torch.cuda.is_available() else "eager")
    instructions, seen = read_instructions(data / "instructions_train.jsonl.gz"), _held_out(data, "seen")
    for name in names or FITS:
        config = replace(known[name], eval_steps=200)
        if not (out := WORK / name).exists():
            watched = seen if config.tokens == 1 else ()  # a look takes a minute; the picture has those of one token
            adapter = fit_gist(lm, instructions, out, config=config, held_out=watched, resume=True, progress=bars())
            if watched:
                save_result(CURVES, name, adapter.card.held_out["curve"])


@app.command("write")
def write_all(data: Data, names: Annotated[list[str] | None, typer.Argument(help="Some ways.")] = None) -> None:
    """Outputs of every split, every way whose adapter is there, or some."""
    ways = WAYS | LONGER_WAYS
    check_known(names, ways)
    lm = load()
    for name in names or ways:
        way = ways[name]
        if way.adapter and not (WORK / way.adapter).exists():
            continue
        adapter = load_adapter(WORK / way.adapter) if way.adapter else _plain(lm)
        for split in SPLITS:
            if (key := f"{name}, {split}") not in load_results(RESULTS):
                instructions = [_shortened(each, way.words) for each in _held_out(data, split)]
                save_result(RESULTS, key, measured(lm, adapter, instructions, way.condition).to_json())


def measured(
    lm: LM, adapter: GistAdapter, instructions: Sequence[Instruction], condition: GistCondition
) -> GistMetrics:
    """Outputs of one way, written as many at once as the device likes."""
    size = 16 if lm.device.type == "cpu" else 128
    return evaluate(lm, adapter, instructions, condition=condition, batch_size=size, progress=bars())


@app.command("show")
def show() -> None:
    """Print the tables and draw the picture."""
    for split in SPLITS:
        print(f"{TABLES[f'gist-quality-{split}']()}\n")
    _draw(load_results(CURVES))


@app.command("ship")
def ship() -> None:
    """Put the adapter of one gist token into the package, with its figures on the card."""
    adapter, found = load_adapter(WORK / "gist-1"), load_results(RESULTS)
    data = dict(adapter.card.data) | {
        "corpus": "instruction induction (Honovich et al., 2022), P3 (Sanh et al., 2022), self-instruct seed tasks",
        "licence": "Apache-2.0",
    }
    test = {split: found[f"gist, 1 token, {split}"] for split in SPLITS}
    card = replace(adapter.card, data=data, held_out={**adapter.card.held_out, "test": test})
    save_adapter(replace(adapter, card=card), SHIPPED_FOLDER / "gist-1")


def _held_out(data: Path, split: str) -> list[Instruction]:
    return read_instructions(data / f"instructions_val_{split}.jsonl.gz")


def _plain(lm: LM) -> GistAdapter:
    """Nothing but a gist token, as it is before it is trained."""
    return GistAdapter(initial_embedding(lm)[None], {}, GistCard(**provenance_of(lm), tokens=1))


def _shortened(each: Instruction, words: int | None) -> Instruction:
    return each if words is None else replace(each, instruction=" ".join(each.instruction.split()[:words]))


def _draw(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Held-out loss of the three fits, and the share of the gap that the gist closes, by step."""
    conditions = {"negative": "no prompt", "gist-1": "gist of one token", "positive": "whole prompt"}
    found = {
        label: {line["step"]: line[name.partition("-")[0]] for line in curves[name]}
        for name, label in conditions.items()
    }
    steps = sorted(set.intersection(*(set(curve) for curve in found.values())))
    losses = {label: [curve[step] for step in steps] for label, curve in found.items()}
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (label, values), colour in zip(losses.items(), (THEIRS, OURS, MIDDLE), strict=True):
        left.plot(steps, values, "o-", markersize=3, color=colour, label=label)
    left.set_ylabel("loss on seen instructions, nats a token")
    left.legend(frameon=False, fontsize=8)
    none, gist, whole = losses.values()
    closed = [gap_closed(*each) for each in zip(gist, whole, none, strict=True)]
    right.plot(steps, closed, "o-", markersize=3, color=OURS)
    right.axhline(1, color=MIDDLE, linewidth=0.8, linestyle="--")
    right.set_ylabel("share of the gap closed")
    right.set_ylim(min(0, *closed) - 0.05, 1.1)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in (left, right):
        axes.set_xlabel(f"steps of {GistConfig.batch_size} examples")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_file(PICTURES / "gist-learning-curve.svg", render_figure(figure))


if __name__ == "__main__":
    app()
