"""The report of an evaluation: curves of the score against perplexity, and the table of all metrics."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsteer.evaluation.intervals import Estimate
from lmsteer.evaluation.metrics import is_degenerate
from lmsteer.evaluation.results import ConditionResult
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.html import render_template

COLOURS = ("#1f7a5a", "#b4462f", "#3b6fb6", "#8a5fb0", "#c98a1b", "#667085", "#2a9db0", "#a03a72")
# Points beyond this multiple of the unsteered perplexity are left out: their text is broken, and they would flatten
# the rest.
_MAX_RATIO = 8.0
_COARSE, _FINE = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8), (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)
Height = Callable[[ConditionResult], Estimate]


def write_report(out: Path, results: Sequence[ConditionResult], metadata: Mapping[str, str]) -> None:
    """Write ``report.html`` and ``curves.svg`` to the folder of an evaluation."""
    write_file(out / "report.html", report(results, metadata))
    write_file(out / "curves.svg", render_figure(curves(results, metadata["scorer"])))


def report(results: Sequence[ConditionResult], metadata: Mapping[str, str]) -> str:
    """One self-contained HTML page.

    Args:
        results: the results of all conditions.
        metadata: what was run, by name (``evaluation_metadata``).
    """
    figure = curves(results, metadata.get("scorer", "score"))
    return render_template(
        "evaluation.html",
        results=results,
        metadata=metadata,
        base=_base(results),
        picture=base64.b64encode(render_figure(figure)).decode(),
    )


def curves(results: Sequence[ConditionResult], scorer: str) -> Figure:
    """Mean score against perplexity, a curve for each method."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    draw_curves(axes, results)
    axes.set_ylabel(f"mean score ({_plain(scorer)})")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_curves(
    axes: Axes,
    results: Sequence[ConditionResult],
    height: Height = lambda result: result.score,
    unit: str = " ×",
) -> None:
    """Draw a curve for each method: a metric against perplexity, with its confidence intervals.

    A hollow marker means degenerate text, whose perplexity is misleadingly low.

    Args:
        axes: where to draw.
        results: the results of all conditions.
        height: gives the metric of a result; its mean score by default.
        unit: the unit behind the numbers of the x axis.
    """
    base = _base(results)
    methods: dict[str, list[ConditionResult]] = {}
    for result in results:
        if result.strength:
            methods.setdefault(result.method, []).append(result)
    for (method, own), colour in zip(methods.items(), COLOURS * len(methods), strict=False):
        labels = iter([_plain(method)])
        for sign in (-1, 1):
            side = sorted((one for one in own if one.strength * sign > 0), key=lambda one: abs(one.strength))
            start = _start(results, method, sign)
            if side:
                points = [_point(one, base, height) for one in [*([start] if start else []), *side]]
                _draw_curve(axes, next(labels, None), points, colour)
    _draw_axes(axes, unit)


def _draw_axes(axes: Axes, unit: str) -> None:
    axes.set(xscale="log", xlabel="perplexity, as a multiple of that of unsteered text")
    axes.margins(0.06, 0.08)
    low, high = axes.get_xlim()
    ticks = [tick for tick in (_COARSE if high > 2 * low else _FINE) if low < tick < high]
    axes.set_xticks(ticks, [f"{tick:g}{unit}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _start(results: Sequence[ConditionResult], method: str, sign: int) -> ConditionResult | None:
    """The start of one side of a curve: unsteered text, or the instruction that a steer is combined with."""
    if method.startswith("prompting + "):
        return next((one for one in results if one.method == "prompting" and one.strength * sign > 0), None)
    return next((one for one in results if not one.strength), None)


class _Point(NamedTuple):
    """A marker of a curve."""

    x: float
    y: Estimate
    strength: float
    is_degenerate: bool


def _point(result: ConditionResult, base: ConditionResult, height: Height) -> _Point:
    x = result.perplexity.mean / base.perplexity.mean
    return _Point(x, height(result), result.strength, is_degenerate(result.rep_3, base.rep_3))


def _draw_curve(axes: Axes, label: str | None, points: Sequence[_Point], colour: str) -> None:
    shown = [point for point in points if point.x <= _MAX_RATIO]
    if not shown:
        return
    x, y = [point.x for point in shown], [point.y.mean for point in shown]
    # A BCa interval need not contain the mean.
    spread = [[max(one.y.mean - one.y.low, 0) for one in shown], [max(one.y.high - one.y.mean, 0) for one in shown]]
    axes.errorbar(x, y, yerr=spread, fmt="-", color=colour, label=label, linewidth=1.2, capsize=2)
    for point in shown:
        inside = "white" if point.is_degenerate else colour
        axes.plot(point.x, point.y.mean, "o", color=colour, markersize=4, markerfacecolor=inside)
    if shown[-1].strength:
        axes.annotate(
            f"{shown[-1].strength:+g}",
            (x[-1], y[-1]),
            textcoords="offset points",
            xytext=(5, 3),
            fontsize=7,
            color=colour,
        )


def _base(results: Sequence[ConditionResult]) -> ConditionResult:
    """Unsteered text, or else the first condition."""
    return next((one for one in results if not one.strength), results[0])


def _plain(text: str) -> str:
    """A text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
