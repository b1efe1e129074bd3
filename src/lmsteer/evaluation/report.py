"""The report of an evaluation: curves of attribute against perplexity, and the table behind them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsteer.evaluation.outcome import Outcome
from lmsteer.pages import filled
from lmsteer.pictures import rendered

_COLOURS = ("#1f7a5a", "#b4462f", "#3b6fb6", "#8a5fb0", "#c98a1b", "#667085", "#2a9db0", "#a03a72")
# What is beyond this multiple of the unsteered perplexity is no language, and would flatten the rest.
_WORST = 8.0


def report(outcomes: Sequence[Outcome], about: Mapping[str, str]) -> str:
    """One self-contained HTML page.

    Args:
        outcomes: of all arms.
        about: what to tell of the run, by name.
    """
    picture = base64.b64encode(rendered(curves(outcomes, about.get("scorer", "score")))).decode()
    return filled("evaluation.html", outcomes=outcomes, about=about, base=_base(outcomes), picture=picture)


def curves(outcomes: Sequence[Outcome], scorer: str) -> Figure:
    """Mean score against perplexity, a curve for each method."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    draw_curves(axes, outcomes)
    axes.set_ylabel(f"mean score ({_plain(scorer)})")
    return figure


def draw_curves(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Draw a curve for each method of an evaluation."""
    base = _base(outcomes)
    methods: dict[str, list[Outcome]] = {}
    for found in outcomes:
        if found.strength:
            methods.setdefault(found.method, []).append(found)
    for (method, points), colour in zip(methods.items(), _COLOURS * len(methods), strict=False):
        labels = iter([_plain(method)])
        for sign in (-1, 1):
            side = sorted((p for p in points if p.strength * sign > 0), key=lambda p: abs(p.strength))
            start = _start(outcomes, method, sign)
            if side:
                _curve(axes, next(labels, None), [*([start] if start else []), *side], base, colour)
    axes.set(xscale="log", xlabel="perplexity, as a multiple of unsteered text's", ylim=(-0.02, 1.02))
    ticks = [tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _start(outcomes: Sequence[Outcome], method: str, sign: int) -> Outcome | None:
    """Where one side of a curve begins: at unsteered text, or at the prompt that the steer comes on top of."""
    if method.startswith("prompting + "):
        return next((found for found in outcomes if found.method == "prompting" and found.strength * sign > 0), None)
    return next((found for found in outcomes if not found.strength), None)


def _curve(axes: Axes, label: str | None, points: Sequence[Outcome], base: float, colour: str) -> None:
    shown = [point for point in points if point.perplexity.mean / base <= _WORST]
    x, y = [point.perplexity.mean / base for point in shown], [point.score.mean for point in shown]
    below, above = ([abs(getattr(p.score, side) - p.score.mean) for p in shown] for side in ("low", "high"))
    axes.errorbar(
        x,
        y,
        yerr=[below, above],
        fmt="o-",
        color=colour,
        label=label,
        linewidth=1.2,
        markersize=4,
        capsize=2,
    )
    for point, px, py in zip(shown, x, y, strict=True):
        if point.strength:
            axes.annotate(
                f"{point.strength:+g}", (px, py), textcoords="offset points", xytext=(5, 3), fontsize=7, color=colour
            )


def _base(outcomes: Sequence[Outcome]) -> float:
    """Perplexity of unsteered text."""
    return next((found.perplexity.mean for found in outcomes if not found.strength), outcomes[0].perplexity.mean)


def _plain(text: str) -> str:
    """A text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
