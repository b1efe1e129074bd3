"""How the safe range of a steer is printed."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from lmsteer.cli.output.common import signed
from lmsteer.evaluation.safe_range import MAX_STRENGTH, SafeRange


def print_safe_range(out: Console, name: str, safe_range: SafeRange) -> None:
    """The strengths that were tried, the safe range, and how to write it."""
    table = Table("strength", "perplexity", "repetition", "score", *(["pairs right"] if safe_range.kept else []))
    for trial in safe_range.trials:
        shown = "" if math.isnan(trial.score) else f"{trial.score:.3f}"
        kept = [] if not safe_range.kept else [f"{trial.accuracy:.1%}"]
        table.add_row(signed(trial.strength), f"{trial.perplexity:.1f}", f"{trial.rep_3:.0%}", shown, *kept)
    out.print(table)
    out.print(
        f"Safe: from {signed(safe_range.low)} to {signed(safe_range.high)}, recorded on the card; "
        f"{name}=50% is half of it.",
        markup=False,
    )
    if MAX_STRENGTH in (safe_range.high, -safe_range.low):
        out.print(f"No limit was found up to a strength of {MAX_STRENGTH:g}.", markup=False, highlight=False)
    if not safe_range.high or not safe_range.low:
        out.print("On one side not even a small strength is safe: this steer is too strong, or damages text at once.")
    if safe_range.target is not None:
        reached = (
            "no safe strength"
            if safe_range.target_strength is None
            else f"{name}=auto, {signed(safe_range.target_strength)}"
        )
        out.print(f"The target {safe_range.target:g} is reached at {reached}.", markup=False, highlight=False)
