"""The report of the demo: a self-contained HTML page."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lmsteer.demo.dial import Dial
from lmsteer.demo.format import percent, signed
from lmsteer.evaluation.strength_curve import Point
from lmsteer.model.lm import LM
from lmsteer.model.sources.pypi import DEFAULT_MODEL
from lmsteer.util.figures import render_figure
from lmsteer.util.html import render_template

_COLOURS = ("#1f7a5a", "#8a5a00")


def render_report(lm: LM, words: Dial, labels: Dial) -> str:
    """The report, a self-contained HTML page."""
    outer = words.curve[-1].strength
    return render_template(
        "demo.html",
        percent=percent,
        signed=signed,
        shade=lambda strength: _shade(strength / outer),
        outer=outer,
        base=lm.name,
        words=words,
        labels=labels,
        dials=(words, labels),
        contrast=words.steer.card.data["contrast"],
        plots=[base64.b64encode(plot.encode()).decode() for plot in plot_curves((words, labels))],
        folder=_relative(words.folder),
        model_option="" if lm.name == DEFAULT_MODEL else f" --model {lm.name}",
        machine=f"{platform.machine()} with {lm.device.type.upper()}",
        card_rows=[_table_rows(asdict(dial.steer.card)) for dial in (words, labels)],
    )


def plot_curves(dials: Sequence[Dial]) -> list[str]:
    """Positive share and perplexity against strength: two SVG plots, side by side where there is room."""
    return [
        _plot(dials, lambda point: 100 * point.positive_share, "positive share (%)", 100),
        _plot(dials, lambda point: point.perplexity, "perplexity under the unsteered model", None),
    ]


def _plot(dials: Sequence[Dial], value: Callable[[Point], float], label: str, top: float | None) -> str:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for dial, colour in zip(dials, _COLOURS, strict=True):
        strengths = [point.strength for point in dial.curve]
        axes.plot(strengths, list(map(value, dial.curve)), "o-", color=colour, label=dial.name, clip_on=False)
        margin = 0.05 * (strengths[-1] - strengths[0])  # the same axis where a value is missing at an end
        axes.set_xlim(strengths[0] - margin, strengths[-1] + margin)
    axes.set(xlabel="strength", ylabel=label, ylim=(0, top))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.axvline(0, color="#98a2b3", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    return render_figure(figure).decode()


def _shade(share: float) -> str:
    """The background colour of a strength, given as a share of the outermost one, as CSS."""
    return f"rgba({'180,70,47' if share < 0 else '31,122,90'},{min(abs(share), 1) * 0.16:.2f})"


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
