"""The report of an evaluation: curves of attribute against perplexity, and the table behind them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsteer.evaluation.metrics import is_degenerate
from lmsteer.evaluation.results import ConditionResult
from lmsteer.evaluation.results import Estimate as Interval
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.html import render_template

COLOURS = ("#1f7a5a", "#b4462f", "#3b6fb6", "#8a5fb0", "#c98a1b", "#667085", "#2a9db0", "#a03a72")
# What is beyond this multiple of the unsteered perplexity is no language, and would flatten the rest.
_WORST = 8.0
_COARSE, _FINE = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8), (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)
Height = Callable[[ConditionResult], Interval]


def write_report(out: Path, outcomes: Sequence[ConditionResult], metadata: Mapping[str, str]) -> None:
    """Write ``report.html`` and ``curves.svg`` to the folder of an evaluation."""
    write_file(out / "report.html", report(outcomes, metadata))
    write_file(out / "curves.svg", render_figure(curves(outcomes, metadata["scorer"])))


def report(outcomes: Sequence[ConditionResult], about: Mapping[str, str]) -> str:
    """One self-contained HTML page.

    Args:
        outcomes: of all arms.
        about: what to tell of the run, by name.
    """
    picture = base64.b64encode(render_figure(curves(outcomes, about.get("scorer", "score")))).decode()
    return render_template("evaluation.html", outcomes=outcomes, about=about, base=_base(outcomes), picture=picture)


def curves(outcomes: Sequence[ConditionResult], scorer: str) -> Figure:
    """Mean score against perplexity, a curve for each method."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    draw_curves(axes, outcomes)
    axes.set_ylabel(f"mean score ({_plain(scorer)})")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_curves(
    axes: Axes, outcomes: Sequence[ConditionResult], height: Height = lambda outcome: outcome.score, unit: str = " ×"
) -> None:
    """Draw a curve for each method of an evaluation: some figure of it against perplexity.

    A hollow mark says that text loops there, which makes it easy to foretell.
    """
    base = _base(outcomes)
    methods: dict[str, list[ConditionResult]] = {}
    for found in outcomes:
        if found.strength:
            methods.setdefault(found.method, []).append(found)
    for (method, points), colour in zip(methods.items(), COLOURS * len(methods), strict=False):
        labels = iter([_plain(method)])
        for sign in (-1, 1):
            side = sorted((p for p in points if p.strength * sign > 0), key=lambda p: abs(p.strength))
            start = _start(outcomes, method, sign)
            if side:
                curve = [_point(p, base, height) for p in [*([start] if start else []), *side]]
                _curve(axes, next(labels, None), curve, colour)
    axes.set(xscale="log", xlabel="perplexity, as a multiple of unsteered text's")
    axes.margins(0.06, 0.08)
    low, high = axes.get_xlim()
    ticks = [tick for tick in (_COARSE if high > 2 * low else _FINE) if low < tick < high]
    axes.set_xticks(ticks, [f"{tick:g}{unit}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _start(outcomes: Sequence[ConditionResult], method: str, sign: int) -> ConditionResult | None:
    """Where one side of a curve begins: at unsteered text, or at the prompt that the steer comes on top of."""
    if method.startswith("prompting + "):
        return next((found for found in outcomes if found.method == "prompting" and found.strength * sign > 0), None)
    return next((found for found in outcomes if not found.strength), None)


class _Point(NamedTuple):
    """A mark of a curve."""

    x: float
    y: Interval
    strength: float
    is_degenerate: bool


def _point(outcome: ConditionResult, base: ConditionResult, height: Height) -> _Point:
    x = outcome.perplexity.mean / base.perplexity.mean
    return _Point(x, height(outcome), outcome.strength, is_degenerate(outcome.rep_3, base.rep_3))


def _curve(axes: Axes, label: str | None, points: Sequence[_Point], colour: str) -> None:
    shown = [point for point in points if point.x <= _WORST]
    x, y = [point.x for point in shown], [point.y.mean for point in shown]
    spread = [[point.y.mean - point.y.low for point in shown], [point.y.high - point.y.mean for point in shown]]
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


def _base(outcomes: Sequence[ConditionResult]) -> ConditionResult:
    """Unsteered text, or else what comes first."""
    return next((found for found in outcomes if not found.strength), outcomes[0])


def _plain(text: str) -> str:
    """A text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
