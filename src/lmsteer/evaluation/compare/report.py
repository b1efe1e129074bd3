"""The report of a comparison: what each method does, costs and needs, side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsteer.evaluation.compare.results import SOUND, Comparison, MethodResult
from lmsteer.evaluation.report import COLOURS, draw_curves
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.html import render_template

# Maximum number of charts in a row.
_COLUMNS = 4


def write_report(out: Path, comparison: Comparison, metadata: Mapping[str, str]) -> None:
    """Write ``report.html`` to the folder of a comparison."""
    write_file(out / "report.html", comparison_report(comparison, metadata))


def comparison_report(comparison: Comparison, metadata: Mapping[str, str]) -> str:
    """One self-contained HTML page.

    Args:
        comparison: the results.
        metadata: what was run, by name (``comparison_metadata``).
    """
    figures = {"attribute": attribute_charts(comparison.methods, metadata.get("scorer", "score"))}
    if any(one.learning_curve for one in comparison.methods):
        figures["learning_curves"] = _learning_curves(comparison.methods)
    return render_template(
        "comparison.html",
        methods=comparison.methods,
        failures=comparison.failures,
        metadata=metadata,
        sound=SOUND,
        pictures={name: base64.b64encode(render_figure(figure)).decode() for name, figure in figures.items()},
    )


def attribute_charts(methods: Sequence[MethodResult], scorer: str) -> Figure:
    """Mean score against perplexity, a chart for each method."""
    figure, charts = _charts(methods)
    for axes, one in zip(charts, methods, strict=True):
        draw_curves(axes, one.conditions, unit="")
        axes.set_xlabel("")
        axes.tick_params(labelsize=7)
    figure.supxlabel("perplexity, as a multiple of that of unsteered text", fontsize=9)
    figure.supylabel(f"mean score ({scorer})".replace("$", r"\$"), fontsize=9)
    return figure


def _learning_curves(methods: Sequence[MethodResult]) -> Figure:
    """Distance of both ends in sound text by number of texts; bars from the least to the most of the subsets."""
    figure, charts = _charts(methods)
    sizes = sorted({point.texts for one in methods for point in one.learning_curve})
    for axes, one in zip(charts, methods, strict=True):
        spans = [
            [point.max_increase + point.max_decrease for point in one.learning_curve if point.texts == size]
            for size in sizes
        ]
        means = [fmean(span) for span in spans]
        bars = [[mean - min(span), max(span) - mean] for mean, span in zip(means, spans, strict=True)]
        spread = [*zip(*bars, strict=True)]
        axes.errorbar(sizes, means, yerr=spread, fmt="o-", markersize=4, capsize=2, color=COLOURS[0])
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("labelled texts", fontsize=9)
    figure.supylabel("difference of mean scores between both ends", fontsize=9)
    return figure


def _charts(methods: Sequence[MethodResult]) -> tuple[Figure, list[Axes]]:
    """A figure with a chart for each method, on the same axes."""
    columns = min(_COLUMNS, max(len(methods), 1))
    rows = -(-max(len(methods), 1) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.3 * rows + 0.3), layout="constrained")
    charts = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, one in zip(charts, methods, strict=False):
        axes.set_title(one.method, fontsize=9)
    for axes in charts[len(methods) :]:
        axes.set_visible(False)
    for axes in charts[max(len(methods) - columns, 0) : len(methods)]:  # the lowest of each column
        axes.xaxis.set_tick_params(labelbottom=True)
    return figure, list(charts[: len(methods)])
