"""The report of a comparison: what each method does, costs and needs, side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure

from lmsteer.evaluation.compare import Comparison
from lmsteer.evaluation.contender import SOUND, Contender, reach
from lmsteer.evaluation.report import COLOURS, draw_curves
from lmsteer.pages import filled
from lmsteer.pictures import rendered

# Of charts.
_COLUMNS = 4


@dataclass(frozen=True)
class Line:
    """A method's figures, as they are shown.

    Attributes:
        method: its name.
        up: how far scores go up while text stays sound.
        down: and down.
        parameters: numbers stored.
        bytes: on disk.
        seconds: of the fit.
        peak_bytes: memory of the process that fitted it.
        slowdown: of a token.
        first_token: of the first.
        context: tokens that it takes.
        traits: what its strength is, yes or no by name.
    """

    method: str
    up: float
    down: float
    parameters: int
    bytes: int
    seconds: float
    peak_bytes: int
    slowdown: float
    first_token: float
    context: int
    traits: Mapping[str, bool]


def line(found: Contender) -> Line:
    """The figures of a contender."""
    up, down = reach(found.outcomes)
    return Line(
        found.method,
        up,
        down,
        found.parameters,
        found.bytes,
        found.seconds,
        found.peak_bytes,
        found.slowdown,
        found.first_token,
        found.context,
        found.traits,
    )


def comparison_report(comparison: Comparison, about: Mapping[str, str]) -> str:
    """One self-contained HTML page."""
    pictures = {"attribute": _attribute(comparison.contenders, about.get("scorer", "score"))}
    if any(found.growth for found in comparison.contenders):
        pictures["growth"] = _growth(comparison.contenders)
    return filled(
        "comparison.html",
        lines=[line(found) for found in comparison.contenders],
        failures=comparison.failures,
        about=about,
        sound=SOUND,
        pictures={name: base64.b64encode(rendered(figure)).decode() for name, figure in pictures.items()},
    )


def _attribute(contenders: Sequence[Contender], scorer: str) -> Figure:
    """Mean score against perplexity, a chart for each method, on the same axes."""
    columns = min(_COLUMNS, max(len(contenders), 1))
    rows = -(-max(len(contenders), 1) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.3 * rows + 0.3), layout="constrained")
    charts = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, found in zip(charts, contenders, strict=False):
        draw_curves(axes, found.outcomes)
        axes.set_title(found.method, fontsize=9)
        axes.set_xlabel("")
        axes.tick_params(labelsize=7)
    for axes in charts[len(contenders) :]:
        axes.set_visible(False)
    figure.supxlabel("perplexity, as a multiple of unsteered text's", fontsize=9)
    figure.supylabel(f"mean score ({scorer})".replace("$", r"\$"), fontsize=9)
    return figure


def _growth(contenders: Sequence[Contender]) -> Figure:
    """How far apart both ends get in sound text, by number of texts; bars from the least to the most of the draws."""
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for found, colour in zip(contenders, COLOURS * len(contenders), strict=False):
        sizes = sorted({int(each["texts"]) for each in found.growth})
        spans = [[each["up"] + each["down"] for each in found.growth if each["texts"] == size] for size in sizes]
        middle = [fmean(span) for span in spans]
        pairs = list(zip(middle, spans, strict=True))
        spread = [[m - min(span) for m, span in pairs], [max(span) - m for m, span in pairs]]
        axes.errorbar(sizes, middle, yerr=spread, fmt="o-", markersize=4, capsize=2, color=colour, label=found.method)
    ticks = sorted({int(each["texts"]) for found in contenders for each in found.growth})
    axes.set(xscale="log", xlabel="labelled texts", ylabel="scores between both ends")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
