"""The table of limits of a token, beside sampling that is greedier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, table


def limits() -> str:
    """Mean score, perplexity, loops and variety under every limit and sampling, by strength."""
    found = [*results("limits").values()]
    base = next(one for one in found if one["name"] == "plain, +0")
    strengths = sorted({one["strength"] for one in found})
    rows = []
    for method in dict.fromkeys(one["method"] for one in found):
        own = {one["strength"]: one for one in found if one["method"] == method}
        rows.append([method, *(_cell(own[s], base) if s in own else "as plain" for s in strengths)])
    return table(["", *(f"{strength:+g}" if strength else "0" for strength in strengths)], rows)


def _cell(one: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    ratio = one["perplexity"]["mean"] / base["perplexity"]["mean"]
    score, loops = one["mean_score"]["sentiment-vader"], percent(one["looping"]["mean"])
    # Figures and their units stay on one line.
    return ", ".join(
        each.replace(" ", "\u00a0") for each in (f"{score:.2f}", f"{ratio:.2f} ×", loops, f"{one['distinct_2']:.2f}")
    )
