"""How comparisons of methods are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lmsteer.evaluation.compare.results import Comparison


def print_comparison(out: Console, comparison: Comparison) -> None:
    """A row for each method, and why the others failed."""
    table = Table("method", "score up", "score down", "on disk", "fit", "time per token", "context tokens")
    table.columns[0].no_wrap = True
    for result in comparison.methods:
        table.add_row(
            result.method,
            f"{result.max_increase:+.3f}",
            f"{-result.max_decrease:+z.3f}",
            f"{result.bytes / 1000:,.0f} kB",
            f"{result.fit_seconds:.1f} s",
            f"{result.time_per_token:.2f} x",
            str(result.context),
        )
    out.print(table)
    for method, reason in comparison.failures.items():
        out.print(f"{method} failed: {reason}", markup=False, highlight=False, style="red")
