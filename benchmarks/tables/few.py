"""The table of steers of few labelled texts."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

SIZES = (8, 16, 32, 64, 128, 256, 500)
SEEDS = range(3)
BEFORE, BEFORE_AS_LONG, NOW = "before", "before, as long as now", "now"
UNSTEERED = "unsteered"


def of_size(size: int, seed: int) -> str:
    """What the results of one draw are called."""
    return f"{size} texts, seed {seed}"


def of_seeds(measured: Mapping[str, Any], size: int) -> list[Mapping[str, Any]]:
    """The results of every draw of so many texts that there is."""
    return [measured[key] for seed in SEEDS if (key := of_size(size, seed)) in measured]


def few_texts() -> str:
    """Positive share at both ends, with perplexity beside that of unsteered text, and the area on unseen texts."""
    measured = results("few")
    base = measured[UNSTEERED]["perplexity"]
    rows = []
    for name in (BEFORE, BEFORE_AS_LONG, NOW):
        for end, strength in enumerate(("-6", "+6")):
            cells = []
            for size in SIZES:
                points = [one[name]["written"][end] for one in of_seeds(measured, size) if name in one]
                share, ratio = (
                    fmean(p[key] for p in points) if points else 0 for key in ("positive_share", "perplexity")
                )
                cells.append(f"{percent(share)} ({ratio / base:.2f})" if points else "refused")
            rows.append([f"{name}, strength {strength}", *cells])
    for name in (BEFORE, NOW):
        areas = [[one[name]["auc"] for one in of_seeds(measured, size) if name in one] for size in SIZES]
        rows.append([f"{name}, area on unseen texts", *(short(fmean(each)) if each else "refused" for each in areas)])
    return table(["", *(f"{size} texts" for size in SIZES)], rows)
