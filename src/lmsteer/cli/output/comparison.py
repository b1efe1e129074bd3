"""How comparisons of methods are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lmsteer.evaluation.compare.run import Comparison


def print_comparison(out: Console, comparison: Comparison) -> None:
    """A row for each method, and why the others failed."""
    table = Table("method", "score up", "score down", "on disk", "fit", "time per token", "context tokens")
    table.columns[0].no_wrap = True
    for result in comparison.contenders:
        table.add_row(
            result.method,
            f"{result.up:+.3f}",
            f"{-result.down:+z.3f}",
            f"{result.bytes / 1000:,.0f} kB",
            f"{result.seconds:.1f} s",
            f"{result.slowdown:.2f} x",
            str(result.context),
        )
    out.print(table)
    for method, reason in comparison.failures.items():
        out.print(f"{method} failed: {reason}", markup=False, highlight=False, style="red")
