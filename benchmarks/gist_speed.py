"""How soon the first token comes after a prompt, how much is kept of it, and what it leaves of the context.

    python -m benchmarks.gist_speed measure [BATCH]    first tokens by length of prompt, batch and gist tokens
    python -m benchmarks.gist_speed show               print the tables, draw docs/figures/gist-cost.svg

Three ways, in turn, through the public calls: the prompt read anew with its inputs, its own cache reused, its gist.
Weights, adapter and inputs are the same. Medians; figures go to ``results/gist_speed.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from benchmarks.gists import FITS, MIDDLE, OURS, WORK
from benchmarks.gists import RESULTS as QUALITIES
from benchmarks.measure import Machine, in_turn
from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.gists import gap_closed
from lmsteer.data.starter import starter_prompts
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.gist.adapter import GistAdapter, load_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.config import GistCondition
from lmsteer.gist.generation import generate_from_gists
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file

RESULTS = Path(__file__).parent / "results" / "gist_speed.json"
# Batches, and how often each is timed.
LENGTHS, BATCHES = (32, 64, 128, 256, 512, 1024), {1: 21, 16: 7}
# Of the picture.
LENGTH, BATCH = 256, 1
FIRST = GenerationConfig(max_new_tokens=1, sampling=SamplingConfig(temperature=0))
INPUT = "\nInput: The ferry was late, and nobody told us why.\nOutput:"
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(batches: Annotated[list[int] | None, typer.Argument(help="Some batches.")] = None) -> None:
    """First tokens: every length with one gist token, one length with more."""
    check_known(batches, BATCHES)
    lm = load()
    machine = Machine.measured()
    save_result(
        RESULTS, "machine", {"GFLOP/s": round(machine.matrix_rate / 1e9), "GB/s": round(machine.bandwidth / 1e9, 1)}
    )
    for name in (name for name in FITS if name.startswith("gist") and (WORK / name).exists()):
        adapter = load_adapter(WORK / name)
        with adapter.installed(lm):
            for length in LENGTHS if name == "gist-1" else (LENGTH,):
                for batch in batches or BATCHES:
                    save_result(RESULTS, _key(name, length, batch), _line(lm, adapter, length, batch))


@app.command("show")
def show() -> None:
    """Print the tables and draw the picture."""
    for name in ("gist-speed", "gist-speed-tokens"):
        print(f"{TABLES[name]()}\n")
    _draw(load_results(RESULTS), load_results(QUALITIES))


def _key(name: str, length: int, batch: int) -> str:
    return f"{name}, {length} tokens, batch {batch}"


def _line(lm: LM, adapter: GistAdapter, length: int, batch: int) -> dict[str, Any]:
    prompt = _prompt(lm, length)
    (gist,) = compress(lm, adapter, [prompt])
    (own,) = compress(lm, adapter, [prompt], condition=GistCondition.POSITIVE)
    inputs = [INPUT] * batch
    texts = [lm.tokenizer.batch_decode([prompt])[0] + INPUT] * batch

    def anew() -> object:
        return list(generate(lm, texts, config=FIRST))

    def after(kept: Any) -> Callable[[], object]:
        return lambda: list(generate_from_gists(lm, adapter, [kept], inputs, config=FIRST))

    seconds = in_turn(anew, after(own), after(gist), repeats=BATCHES[batch])
    return dict(zip(("anew_s", "own_s", "gist_s"), seconds, strict=True)) | {
        "own_bytes": own.bytes,
        "gist_bytes": gist.bytes,
        "own_left": lm.max_length - own.provenance.end,
        "gist_left": lm.max_length - gist.provenance.end,
    }


def _prompt(lm: LM, length: int) -> list[int]:
    """Plain English of so many tokens."""
    ids = lm.encode([" ".join(starter_prompts())])[0]
    return (ids * (length // len(ids) + 1))[:length]


def _draw(found: dict[str, Any], qualities: dict[str, Any]) -> None:
    """Quality, first token, memory of a prompt, and what it takes of the context: a row for each way."""
    base = found[_key("gist-1", LENGTH, BATCH)]
    whole = 1000 * base["anew_s"], base["own_bytes"] / 1024, LENGTH
    rows = {"whole prompt, read anew": ("whole prompt", *whole)}
    rows["whole prompt, own cache"] = ("whole prompt", 1000 * base["own_s"], *whole[1:])
    for tokens in (10, 5, 2, 1):
        if line := found.get(_key(f"gist-{tokens}", LENGTH, BATCH)):
            name = f"gist, {tokens} token{'s' * (tokens > 1)}"
            rows[name] = (name, 1000 * line["gist_s"], line["gist_bytes"] / 1024, tokens)
    losses = {name: qualities[f"{name}, seen"]["loss"] for name, *_ in rows.values()}
    limits = losses["whole prompt"], qualities["no prompt, seen"]["loss"]
    columns: dict[str, Sequence[float]] = {
        "loss gap closed, seen instructions": [100 * gap_closed(losses[name], *limits) for name, *_ in rows.values()],
        f"first token, ms ({LENGTH}-token prompt)": [row[1] for row in rows.values()],
        "kept of the prompt, KiB": [row[2] for row in rows.values()],
        "positions taken of the context": [row[3] for row in rows.values()],
    }
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 4, sharey=True), columns.items(), strict=True):
        bars = axes.barh([*rows], values, color=[OURS if name.startswith("gist") else MIDDLE for name in rows])
        axes.bar_label(bars, [f"{value:,.0f}{' %' * ('gap' in title)}" for value in values], padding=3, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(0, 1.3 * max(values))
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.invert_yaxis()
    write_file(PICTURES / "gist-cost.svg", render_figure(figure))


if __name__ == "__main__":
    app()
