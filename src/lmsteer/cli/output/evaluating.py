"""How evaluations are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.evaluation.results import ConditionResult, Estimate


def outcomes(out: Console, found: Sequence[ConditionResult], about: Mapping[str, str]) -> None:
    """A row for each arm, and how good its judge is."""
    table = Table("arm", "score", "expected_max", "expected_min", "perplexity", "dist-2", "repeats")
    table.columns[0].no_wrap = True
    for each in found:
        extremes = [f"{figure.mean:.3f}" for figure in (each.expected_max, each.expected_min)]
        last = [_shown(each.perplexity, 1), f"{each.distinct[1]:.2f}", f"{each.rep_3:.0%}"]
        cells = [_shown(each.score, 3), *extremes, *last]
        table.add_row(escape(each.name), *cells)
    out.print(table)
    out.print(f"Scorer {about['scorer']}: {about['how good the scorer is']}.", markup=False, highlight=False)


def _shown(figure: Estimate, digits: int) -> str:
    """A mean, and half of how far other draws of prompts would lie apart."""
    return f"{figure.mean:.{digits}f} ± {(figure.high - figure.low) / 2:.{digits - 1}f}"
