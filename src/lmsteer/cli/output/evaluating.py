"""How evaluations are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.evaluation.results import Figure, Outcome


def outcomes(out: Console, found: Sequence[Outcome], about: Mapping[str, str]) -> None:
    """A row for each arm, and how good its judge is."""
    table = Table("arm", "score", "highest", "lowest", "perplexity", "dist-2", "repeats")
    table.columns[0].no_wrap = True
    for each in found:
        extremes = [f"{figure.mean:.3f}" for figure in (each.highest, each.lowest)]
        last = [_shown(each.perplexity, 1), f"{each.distinct[1]:.2f}", f"{each.repetition:.0%}"]
        cells = [_shown(each.score, 3), *extremes, *last]
        table.add_row(escape(each.name), *cells)
    out.print(table)
    out.print(f"Scorer {about['scorer']}: {about['how good the scorer is']}.", markup=False, highlight=False)


def _shown(figure: Figure, digits: int) -> str:
    """A mean, and half of how far other draws of prompts would lie apart."""
    return f"{figure.mean:.{digits}f} ± {(figure.high - figure.low) / 2:.{digits - 1}f}"
