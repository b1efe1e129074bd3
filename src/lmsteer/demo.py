"""The demo: a sentiment steer fitted on the starter texts, its text at several strengths, and a report of both."""

from __future__ import annotations

import base64
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lmsteer.data.labelled import LabelledSource
from lmsteer.data.starter import DIMENSIONS, starter_file, starter_texts
from lmsteer.evaluation.scorers import Vader
from lmsteer.evaluation.strength_curve import Point, strength_curve
from lmsteer.fitting.fit import Fit, fit
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.model.sources.pypi import DEFAULT_MODEL
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.html import render_template
from lmsteer.util.progress import bars

STEER = "sentiment"
STRENGTHS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
PROMPTS = (
    "The weather this morning",
    "I went to the new restaurant and",
    "My first week at the office was",
    "We watched the film last night and",
    "The neighbours next door are",
    "Our trip to the coast turned out",
)
_SAMPLES, _MAX_NEW_TOKENS = 4, 24
# With ``quick``: the numbers of texts, prompts and samples.
_QUICK_TEXTS, _QUICK_PROMPTS, _QUICK_SAMPLES = 160, 2, 1
# Prompts that are printed on the terminal; the report shows all.
_PRINTED_PROMPTS = 4
_NEGATIVE, _POSITIVE = "#b4462f", "#1f7a5a"


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        fit: the fit on the starter texts.
        curve: positive share and perplexity at each strength.
        report: file of the report.
    """

    fit: Fit
    curve: list[Point]
    report: Path


def run(model: str, out: Path, *, quick: bool = False, console: Console | None = None) -> Demo:
    """Fit a sentiment steer, generate text at several strengths, measure it, and write a report.

    Args:
        model: name of the model.
        out: folder of the steer and of ``report.html``.
        quick: use fewer texts and samples, to see whether everything runs.
        console: console to print on; standard output by default.
    """
    console = console or Console()
    lm, texts = load(model), starter_texts(STEER)
    started = time.monotonic()
    fitted = fit(
        lm,
        texts[:_QUICK_TEXTS] if quick else texts,
        name=STEER,
        label=DIMENSIONS[STEER],
        source=LabelledSource(str(starter_file(STEER))),
        out=out / STEER,
        progress=bars(),
    )
    seconds = time.monotonic() - started
    prompts, samples = (PROMPTS[:_QUICK_PROMPTS], _QUICK_SAMPLES) if quick else (PROMPTS, _SAMPLES)
    settings = [{STEER: strength} for strength in STRENGTHS]
    config = GenerationConfig(samples, _MAX_NEW_TOKENS, score=True)
    continuations = list(generate(lm, prompts, {STEER: fitted.steer}, settings, config, progress=bars()))
    curve = strength_curve(continuations, STEER, Vader())
    print_results(console, continuations, curve)
    report = out / "report.html"
    write_file(report, render_report(lm, fitted, continuations, curve, seconds))
    console.print(f"\nThe report: [bold]{report}[/]")
    return Demo(fitted, curve, report)


def print_results(console: Console, continuations: Sequence[Continuation], curve: Sequence[Point]) -> None:
    """Print the first continuation of each prompt and strength, and what was measured."""
    for prompt, samples in list(_first_samples(continuations).items())[:_PRINTED_PROMPTS]:
        table = Table("strength", "continuation", title=f"{prompt} ...", title_justify="left", expand=True)
        for sample in samples:
            strength = sample.strengths[STEER]
            colour = "red" if strength < 0 else "green" if strength > 0 else "default"
            table.add_row(_signed(strength), " ".join(sample.text.split()), style=colour)
        console.print(table)
    table = Table("strength", "positive share", "perplexity (unsteered model)", title="Measured", title_justify="left")
    for point in curve:
        table.add_row(_signed(point.strength), _percent(point.positive_share), f"{point.perplexity:.1f}")
    console.print(table)


def render_report(
    lm: LM, fitted: Fit, continuations: Sequence[Continuation], curve: Sequence[Point], seconds: float
) -> str:
    """The report, a self-contained HTML page; ``seconds`` is the duration of the fit."""
    prompts = {
        prompt: [(sample.strengths[STEER], _shade(sample.strengths[STEER]), sample.text.strip()) for sample in samples]
        for prompt, samples in _first_samples(continuations).items()
    }
    return render_template(
        "demo.html",
        percent=_percent,
        signed=_signed,
        card=fitted.steer.card,
        held_out=fitted.held_out,
        lowest=curve[0],
        highest=curve[-1],
        curve=curve,
        base_perplexity=next(point.perplexity for point in curve if point.strength == 0),
        prompts=prompts,
        plots=[base64.b64encode(plot.encode()).decode() for plot in plot_curve(curve)],
        parameters=fitted.steer.parameters,
        rank=fitted.steer.rank,
        folder=_relative(fitted.folder),
        model_option="" if lm.name == DEFAULT_MODEL else f" --model {lm.name}",
        seconds=seconds,
        machine=f"{platform.machine()} with {lm.device.type.upper()}",
        card_rows=_table_rows(asdict(fitted.steer.card)),
    )


def plot_curve(curve: Sequence[Point]) -> list[str]:
    """Positive share and perplexity against strength: two SVG plots, side by side where there is room."""
    shares, perplexities = [100 * point.positive_share for point in curve], [point.perplexity for point in curve]
    strengths = [point.strength for point in curve]
    return [
        _plot(strengths, shares, "positive share (%)", 100, _POSITIVE),
        _plot(strengths, perplexities, "perplexity under the unsteered model", None, _NEGATIVE),
    ]


def _plot(strengths: list[float], values: list[float], label: str, top: float | None, colour: str) -> str:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(strengths, values, "o-", color=colour, clip_on=False)
    axes.set(xlabel="strength", ylabel=label, ylim=(0, top))
    margin = 0.05 * (strengths[-1] - strengths[0])  # the same axis where a value is missing at an end
    axes.set_xlim(strengths[0] - margin, strengths[-1] + margin)
    axes.grid(alpha=0.3)
    axes.axvline(0, color="#98a2b3", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    return render_figure(figure).decode()


def _first_samples(continuations: Sequence[Continuation]) -> dict[str, list[Continuation]]:
    """The first sample at each strength, by prompt."""
    first: dict[str, list[Continuation]] = {}
    for continuation in continuations:
        if continuation.sample == 0:
            first.setdefault(str(continuation.prompt), []).append(continuation)
    return first


def _signed(strength: float) -> str:
    """A strength with its sign; 0 has none."""
    return f"{strength:+g}" if strength else "0"


def _percent(share: float) -> str:
    """A share as a percentage; a dash where the scorer decided on no text."""
    return "–" if math.isnan(share) else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _shade(strength: float) -> str:
    """The background colour of a strength, as CSS."""
    return f"rgba({'180,70,47' if strength < 0 else '31,122,90'},{min(abs(strength) / 6, 1) * 0.16:.2f})"


def _relative(folder: Path) -> Path:
    """A folder relative to the working directory, if it is below it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _table_rows(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A card as rows of a table; nested fields look like ``fit: rank share``."""
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            rows += _table_rows(value, f"{prefix}{key}: ")
        elif value not in (None, "", ()):
            rows.append((prefix + key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows
