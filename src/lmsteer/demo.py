"""demo: from starter texts to a dial that turns, and a page to show to somebody."""

from __future__ import annotations

import base64
import math
import platform
import time
from collections.abc import Sequence
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

PROMPTS = (
    "The weather this morning",
    "I went to the new restaurant and",
    "My first week at the office was",
    "We watched the film last night and",
    "The neighbours next door are",
    "Our trip to the coast turned out",
)
STRENGTHS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
_SAMPLES = 4
_SHOWN = 4


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        fit: of the starter sentiment texts.
        curve: positive share and perplexity by strength.
        report: the page.
    """

    fit: Fit
    curve: list[Point]
    report: Path


def run(model: str, out: Path, *, quick: bool = False, console: Console | None = None) -> Demo:
    """Fit, dial, measure, report.

    Args:
        model: to steer.
        out: folder of the steer and of ``report.html``.
        quick: fewer texts and samples.
        console: to print on.
    """
    console = console or Console()
    lm = load(model)
    texts = starter_texts()
    started = time.monotonic()
    fitted = fit(
        lm,
        texts[:160] if quick else texts,
        name="sentiment",
        label=DIMENSIONS["sentiment"],
        source=LabelledSource(str(starter_file("sentiment"))),
        out=out / "sentiment",
        progress=bars(),
    )
    seconds = time.monotonic() - started
    prompts, samples = (PROMPTS[:2], 1) if quick else (PROMPTS, _SAMPLES)
    settings = [{"sentiment": s} for s in STRENGTHS]
    steers = {"sentiment": fitted.steer}
    config = GenerationConfig(samples, max_new_tokens=24, score=True)
    rows = list(generate(lm, prompts, steers, settings, config, progress=bars()))
    curve = strength_curve(rows, "sentiment", Vader())
    show(console, rows, curve)
    report = out / "report.html"
    write_file(report, page(lm, fitted, rows, curve, seconds))
    console.print(f"\nThe page to show to somebody: [bold]{report}[/]")
    return Demo(fitted, curve, report)


def show(console: Console, rows: Sequence[Continuation], curve: Sequence[Point]) -> None:
    """Print the same prompts at each strength, and the curve."""
    for prompt in list(dict.fromkeys(row.prompt for row in rows))[:_SHOWN]:
        table = Table("dial", "continuation", title=f"{prompt} ...", title_justify="left", expand=True)
        for row in rows:
            if row.prompt == prompt and row.sample == 0:
                table.add_row(f"{row.strengths['sentiment']:+g}", " ".join(row.text.split()), style=_style(row))
        console.print(table)
    table = Table("dial", "positive share", "perplexity (unsteered model's)", title="Measured", title_justify="left")
    for point in curve:
        table.add_row(f"{point.strength:+g}", _percent(point.positive_share), f"{point.perplexity:.1f}")
    console.print(table)


def _percent(share: float) -> str:
    """A share as a percentage; a dash where there was no verdict to take a share of."""
    return "–" if math.isnan(share) else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _style(row: Continuation) -> str:
    strength = row.strengths["sentiment"]
    return "red" if strength < 0 else "green" if strength > 0 else "default"


def page(lm: LM, fitted: Fit, rows: Sequence[Continuation], curve: Sequence[Point], seconds: float) -> str:
    """The report, one self-contained HTML page; ``seconds`` is what the fit took."""
    card = fitted.steer.card
    prompts = [
        {
            "text": prompt,
            "rows": [
                {"strength": r.strengths["sentiment"], "text": r.text.strip(), "colour": _colour(r)}
                for r in rows
                if r.prompt == prompt and r.sample == 0
            ],
        }
        for prompt in dict.fromkeys(row.prompt for row in rows)
    ]
    return render_template(
        "demo.html",
        percent=_percent,
        card=card,
        held_out=fitted.held_out,
        low=curve[0],
        high=curve[-1],
        curve=curve,
        base_perplexity=next(point.perplexity for point in curve if point.strength == 0),
        prompts=prompts,
        pictures=[base64.b64encode(picture.encode()).decode() for picture in draw(curve)],
        scorer="vaderSentiment",
        parameters=fitted.steer.parameters,
        rank=fitted.steer.rank,
        folder=_short(fitted.folder),
        on="" if lm.name == DEFAULT_MODEL else f" --model {lm.name}",
        seconds=seconds,
        machine=f"{platform.machine()} with {lm.device.type.upper()}",
        facts=_facts(asdict(card)),
    )


def draw(curve: Sequence[Point]) -> list[str]:
    """Positive share, and perplexity, against strength: two SVGs, which a narrow page sets below each other."""
    strengths = [point.strength for point in curve]
    shares, prices = [100 * point.positive_share for point in curve], [point.perplexity for point in curve]
    return [
        _picture(strengths, shares, "positive share of the verdicts (%)", 100, "#1f7a5a"),
        _picture(strengths, prices, "perplexity under the unsteered model", None, "#b4462f"),
    ]


def _picture(strengths: list[float], values: list[float], what: str, top: float | None, colour: str) -> str:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(strengths, values, "o-", color=colour, clip_on=False)
    axes.set(xlabel="strength", ylabel=what, ylim=(0, top))
    axes.grid(alpha=0.3)
    axes.axvline(0, color="#98a2b3", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    return render_figure(figure).decode()


def _colour(row: Continuation) -> str:
    strength = row.strengths["sentiment"]
    weight = min(abs(strength) / 6, 1) * 0.16
    return f"rgba({'180,70,47' if strength < 0 else '31,122,90'},{weight:.2f})"


def _short(folder: Path) -> Path:
    """A folder as seen from here, where it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _facts(card: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A card as rows of a table, nested ones as ``fit: rank_share``."""
    rows: list[tuple[str, str]] = []
    for key, value in card.items():
        if isinstance(value, dict):
            rows += _facts(value, f"{prefix}{key}: ")
        elif value not in (None, ""):
            rows.append((prefix + key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows
