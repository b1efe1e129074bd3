"""The picture of wishes: a grid of all measures by all wishes, in plain text and in chats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.results import PICTURES
from benchmarks.tables.wishes import ENDS, KINDS, MODEL, measured_wishes, ratio, shifts, unsteered_key, wish_key
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file

PICTURE = PICTURES / "wishes.svg"
# Colours saturate at so many standard deviations.
_STRONGEST = 3.0


def draw(found: Mapping[str, Any]) -> None:
    """Draw a row for each end of each wish, a column for each measure; the wish's own measure has a frame."""
    rows = len(ENDS) * len(measured_wishes(found, KINDS[0]))
    figure = Figure(figsize=(13, 1.9 + 0.27 * rows), layout="constrained")
    charts = figure.subplots(1, len(KINDS), squeeze=False)[0]
    for axes, kind, title in zip(charts, KINDS, ("plain text", "chats"), strict=True):
        image = _draw_grid(axes, found, kind)
        axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=charts, shrink=0.6, label="moved by, in standard deviations of unsteered texts")
    write_file(PICTURE, render_figure(figure))


def _draw_grid(axes: Axes, found: Mapping[str, Any], kind: str) -> Any:
    unsteered = found[unsteered_key(MODEL, kind)]
    measures = list(unsteered["means"])
    labels: list[str] = []
    grid: list[list[float]] = []
    for wish in measured_wishes(found, kind):
        for end, sign in zip(ENDS, "−+", strict=True):
            steered = found[wish_key(MODEL, kind, wish.name)][end]["steered"]
            moved = shifts(steered, unsteered)
            if wish.scorer:
                corner = (measures.index(wish.scorer) - 0.5, len(grid) - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4, zorder=3))
            grid.append([moved[name] for name in measures])
            labels.append(f"{wish.name} {sign}  ×{ratio(steered, unsteered):.2f}")
    image = axes.imshow(grid, cmap="RdBu", vmin=-_STRONGEST, vmax=_STRONGEST, aspect="auto")
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            colour = "white" if abs(value) > 0.7 * _STRONGEST else "black"
            shown = "" if math.isnan(value) else f"{round(value, 1) + 0.0:+.1f}"
            axes.text(x, y, shown, ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_xticks(range(len(measures)), measures, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_yticks([y - 0.5 for y in range(0, len(grid), 2)], minor=True)
    axes.grid(which="minor", axis="y", color="#667085", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    return image
