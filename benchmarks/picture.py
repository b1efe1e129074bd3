"""The picture of growth: one small chart a curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.growth import Curve
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file

OURS, PUBLISHED = "#1f7a5a", "#b4462f"
COLUMNS = 3


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Draw curves on double logarithmic axes."""
    rows = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 3 * rows), layout="constrained")
    charts = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, curve in zip(charts, curves, strict=False):
        _draw(axes, curve)
    for axes in charts[len(curves) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in charts for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=2, frameon=False)
    write_file(file, render_figure(figure))


def _draw(axes: Axes, curve: Curve) -> None:
    if curve.naive is not None:
        axes.plot(curve.values, curve.naive, "o-", color=PUBLISHED, label="published")
    axes.plot(curve.values, curve.ours, "o-", color=OURS, label="ours")
    axes.set(xscale="log", yscale="log" if curve.naive is not None else "linear")
    if curve.naive is None:
        axes.set_ylim(0, 1.15 * max(curve.ours))
    axes.set_xticks(curve.values, [f"{value:,}" for value in curve.values])
    axes.minorticks_off()
    axes.set_xlabel(curve.x)
    axes.set_title(curve.what, fontsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
