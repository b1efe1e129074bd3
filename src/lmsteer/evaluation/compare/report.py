"""The report of a comparison: what each method does, costs and needs, side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsteer.evaluation.compare.run import Comparison
from lmsteer.evaluation.compare.worker import SOUND, ComparisonConfig, MethodResult
from lmsteer.evaluation.report import COLOURS, draw_curves
from lmsteer.evaluation.scorers import Scorer
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.html import render_template

# Of charts.
_COLUMNS = 4


def comparison_metadata(plan: ComparisonConfig, texts: int, scorer: Scorer) -> dict[str, str]:
    """What a comparison measured, and with what; ``texts`` is the number of labelled texts."""
    protocol = plan.protocol
    limit = f", {plan.budget.seconds:g} seconds at most" if plan.budget.seconds else ""
    return {
        "model": plan.model,
        "texts": f"{texts} labelled texts of {plan.source.path}",
        "scorer": scorer.name,
        "scorer quality": "; ".join(map(str, scorer.about)) or "not measured here",
        "perplexity model": plan.judge or plan.model,
        "prompts": f"{len(plan.prompts)}, {protocol.num_samples} continuations of {protocol.max_new_tokens} tokens",
        "training": f"{plan.budget.steps} steps of {plan.budget.batch} texts at most{limit}",
    }


def write_report(out: Path, comparison: Comparison, metadata: Mapping[str, str]) -> None:
    """Write ``report.html`` to the folder of a comparison."""
    write_file(out / "report.html", comparison_report(comparison, metadata))


def comparison_report(comparison: Comparison, about: Mapping[str, str]) -> str:
    """One self-contained HTML page."""
    pictures = {"attribute": attribute_charts(comparison.contenders, about.get("scorer", "score"))}
    if any(found.growth for found in comparison.contenders):
        pictures["growth"] = _growth(comparison.contenders)
    return render_template(
        "comparison.html",
        lines=comparison.contenders,
        failures=comparison.failures,
        about=about,
        sound=SOUND,
        pictures={name: base64.b64encode(render_figure(figure)).decode() for name, figure in pictures.items()},
    )


def attribute_charts(contenders: Sequence[MethodResult], scorer: str) -> Figure:
    """Mean score against perplexity, a chart for each method."""
    figure, charts = _charts(contenders)
    for axes, found in zip(charts, contenders, strict=True):
        draw_curves(axes, found.outcomes, unit="")
        axes.set_xlabel("")
        axes.tick_params(labelsize=7)
    figure.supxlabel("perplexity, as a multiple of unsteered text's", fontsize=9)
    figure.supylabel(f"mean score ({scorer})".replace("$", r"\$"), fontsize=9)
    return figure


def _growth(contenders: Sequence[MethodResult]) -> Figure:
    """How far apart both ends get in sound text, by number of texts; bars from the least to the most of the draws."""
    figure, charts = _charts(contenders)
    ticks = sorted({each["texts"] for found in contenders for each in found.growth})
    for axes, found in zip(charts, contenders, strict=True):
        spans = [[each["up"] + each["down"] for each in found.growth if each["texts"] == size] for size in ticks]
        middle = [fmean(span) for span in spans]
        bars = [[m - min(span), max(span) - m] for m, span in zip(middle, spans, strict=True)]
        spread = [*zip(*bars, strict=True)]
        axes.errorbar(ticks, middle, yerr=spread, fmt="o-", markersize=4, capsize=2, color=COLOURS[0])
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=7)
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("labelled texts", fontsize=9)
    figure.supylabel("scores between both ends", fontsize=9)
    return figure


def _charts(contenders: Sequence[MethodResult]) -> tuple[Figure, list[Axes]]:
    """A figure with a chart for each method, on the same axes."""
    columns = min(_COLUMNS, max(len(contenders), 1))
    rows = -(-max(len(contenders), 1) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.3 * rows + 0.3), layout="constrained")
    charts = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, found in zip(charts, contenders, strict=False):
        axes.set_title(found.method, fontsize=9)
    for axes in charts[len(contenders) :]:
        axes.set_visible(False)
    return figure, list(charts[: len(contenders)])
