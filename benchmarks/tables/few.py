"""The table of steers of few labelled texts."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

SIZES = (8, 16, 32, 64, 128, 500)
SEEDS = range(3)
BEFORE, BEFORE_AS_LONG, NOW = "before", "before, as long as now", "now"
WAYS = (NOW, BEFORE, BEFORE_AS_LONG)
UNSTEERED = "unsteered"


def of_draw(way: str, size: int, seed: int) -> str:
    """What the results of one draw are called."""
    return f"{way}, {size} texts, seed {seed}"


def shares_of(measured: Mapping[str, Any], way: str, size: int, end: int) -> list[float]:
    """Positive shares in percent of all draws of so many texts, at one end."""
    return [100 * point["positive_share"] for point in _points(measured, way, size, end)]


def few_texts() -> str:
    """Positive share at both ends, with perplexity beside that of unsteered text, and the area on unseen texts."""
    measured = results("few")
    base = measured[UNSTEERED]["perplexity"]
    ways = [way for way in (BEFORE, BEFORE_AS_LONG, NOW) if any(of_draw(way, size, 0) in measured for size in SIZES)]
    sizes = [size for size in SIZES if any(of_draw(way, size, 0) in measured for way in ways)]
    rows = []
    for way in ways:
        for end, strength in enumerate(("-6", "+6")):
            cells = []
            for size in sizes:
                points = _points(measured, way, size, end)
                ratios = [point["perplexity"] / base for point in points]
                share = percent(fmean(shares_of(measured, way, size, end)) / 100) if points else ""
                cells.append(f"{share} ({fmean(ratios):.2f})" if points else _missing(measured, way, size))
            rows.append([f"{way}, strength {strength}", *cells])
        areas = [[one["auc"] for one in _draws(measured, way, size)] for size in sizes]
        cells = [
            short(fmean(each)) if each else _missing(measured, way, size)
            for each, size in zip(areas, sizes, strict=True)
        ]
        rows.append([f"{way}, area on unseen texts", *cells])
    return table(["", *(f"{size} texts" for size in sizes)], rows)


def _draws(measured: Mapping[str, Any], way: str, size: int) -> list[Any]:
    found = (measured.get(of_draw(way, size, seed), {}) for seed in SEEDS)
    return [one for one in found if "written" in one]


def _points(measured: Mapping[str, Any], way: str, size: int, end: int) -> list[Any]:
    return [one["written"][end] for one in _draws(measured, way, size)]


def _missing(measured: Mapping[str, Any], way: str, size: int) -> str:
    return "refused" if any("refused" in measured.get(of_draw(way, size, seed), {}) for seed in SEEDS) else ""
