"""Mixes of the steers that ship: how much of itself each keeps, and a plane of two of them.

    python -m benchmarks.mixing table     three steers, alone and mixed, as they are and balanced
    python -m benchmarks.mixing plane     a grid of strengths of two steers, docs/figures/two-steers.svg

Dimensions are read by their own steers, in nats of evidence, from continuations of the sixty starter prompts. Results
go to ``results/mixing.json``.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.results import PICTURES, save_result
from lmsteer.cli.output.mix import print_mix
from lmsteer.data.starter import starter_prompts
from lmsteer.evaluation.interference import interference, steer_evidence
from lmsteer.evaluation.mix_report import mix_report
from lmsteer.evaluation.protocol import Protocol
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.loading import load
from lmsteer.steer.algebra import decorrelate_strengths
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results" / "mixing.json"
PICTURE = PICTURES / "two-steers.svg"
THREE = {"sentiment": 3.0, "politeness": 3.0, "clickbait": 3.0}
TWO, GRID = ("sentiment", "politeness"), (-4.0, -2.0, 0.0, 2.0, 4.0)
SAMPLES, TOKENS = 3, 24
app = typer.Typer(add_completion=False)


@app.command()
def table() -> None:
    """Each steer's own effect alone and in the mix."""
    lm = load()
    steers = {name: find_steer(name) for name in THREE}
    own = fisher_factors(lm)
    plain = Mix(steers, THREE)
    mixes = {"as they are": plain, "balanced": Mix(steers, decorrelate_strengths(plain, own))}
    console = Console(width=120)
    for how, mix in mixes.items():
        found = interference(lm, mix, starter_prompts(), protocol=Protocol(SAMPLES, TOKENS), progress=bars())
        report = mix_report(mix, own, found)
        save_result(RESULTS, how, report.to_json())
        console.print(f"\n{how}")
        print_mix(console, report)


@app.command()
def plane() -> None:
    """What each pair of strengths does to both readings."""
    lm = load()
    steers = {name: find_steer(name) for name in TWO}
    settings = [{TWO[0]: s, TWO[1]: t} for s in GRID for t in GRID]
    config = GenerationConfig(max_new_tokens=TOKENS)
    rows = list(generate(lm, starter_prompts(), steers, settings, config, progress=bars()))
    texts = [row.text for row in rows]
    readings = steer_evidence(lm, steers, texts, progress=bars()).T
    means = readings.reshape(len(starter_prompts()), len(GRID), len(GRID), 2).mean(0)
    save_result(RESULTS, "plane", {"steers": TWO, "strengths": GRID, "readings": means.tolist()})
    write_file(PICTURE, render_figure(_drawn(means)))


def _drawn(means: torch.Tensor) -> Figure:
    """Readings (S, S, 2) as a net: lines of one strength of either steer."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for k, strength in enumerate(GRID):
        for line, colour, by in ((means[k], "#1f7a5a", (0, 6)), (means[:, k], "#3b6fb6", (7, -3))):
            axes.plot(line[:, 0], line[:, 1], "-", color=colour, linewidth=1.3)
            end, label = (float(line[-1, 0]), float(line[-1, 1])), f"{strength:+g}" if strength else "0"
            axes.annotate(label, end, textcoords="offset points", xytext=by, color=colour, fontsize=9)
    axes.plot(means[..., 0].flatten(), means[..., 1].flatten(), "o", color="#1d2433", markersize=3)
    middle = len(GRID) // 2
    axes.plot(*means[middle, middle][:, None], "o", color="#b4462f", markersize=7, label="unsteered")
    axes.plot([], [], color="#1f7a5a", label=f"one strength of {TWO[0]}")
    axes.plot([], [], color="#3b6fb6", label=f"one strength of {TWO[1]}")
    axes.set(xlabel=f"{TWO[0]}, nats of evidence", ylabel=f"{TWO[1]}, nats of evidence")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    app()
