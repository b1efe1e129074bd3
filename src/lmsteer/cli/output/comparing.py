"""How comparisons of methods are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lmsteer.evaluation.compare.run import Comparison


def comparison(out: Console, found: Comparison) -> None:
    """A row for each method, and what failed."""
    table = Table("method", "up", "down", "on disk", "fit", "a token", "context")
    table.columns[0].no_wrap = True
    for each in found.contenders:
        table.add_row(
            each.method,
            f"{each.up:+.3f}",
            f"{-each.down:+z.3f}",
            f"{each.bytes / 1000:,.0f} kB",
            f"{each.seconds:.1f} s",
            f"{each.slowdown:.2f} x",
            str(each.context),
        )
    out.print(table)
    for method, why in found.failures.items():
        out.print(f"{method} failed: {why}", markup=False, highlight=False, style="red")


def comparison_as_json(found: Comparison, about: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "about": dict(about),
        "lines": [each.figures() for each in found.contenders],
        "contenders": [each.to_json() for each in found.contenders],
        "failures": found.failures,
    }
