"""How evaluations are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from lmsteer.evaluation.intervals import Estimate
from lmsteer.evaluation.results import ConditionResult


def print_results(out: Console, results: Sequence[ConditionResult], metadata: Mapping[str, str]) -> None:
    """A row for each condition, and how good the scorer is."""
    table = Table("condition", "score", "expected max", "expected min", "perplexity", "dist-2", "rep-3")
    table.columns[0].no_wrap = True
    for result in results:
        extremes = [f"{estimate.mean:.3f}" for estimate in (result.expected_max, result.expected_min)]
        last = [_with_interval(result.perplexity, 1), f"{result.distinct[1]:.2f}", f"{result.rep_3:.0%}"]
        table.add_row(escape(result.name), _with_interval(result.score, 3), *extremes, *last)
    out.print(table)
    out.print(f"Scorer {metadata['scorer']}: {metadata['scorer quality']}.", markup=False, highlight=False)


def _with_interval(estimate: Estimate, digits: int) -> str:
    """A mean, and half of the width of its confidence interval."""
    return f"{estimate.mean:.{digits}f} ± {(estimate.high - estimate.low) / 2:.{digits - 1}f}"
