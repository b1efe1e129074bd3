"""How a steer of the demo is printed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lmsteer.demo.dial import Dial
from lmsteer.demo.format import percent, signed

# Prompts that are printed; the report shows all.
_PRINTED_PROMPTS = 3


def print_dial(console: Console, dial: Dial) -> None:
    """Print the texts of some prompts at each strength, and what was measured."""
    console.print(f"\n[bold]{dial.name}[/]: made in {dial.seconds:.0f} s, saved to {dial.folder}", soft_wrap=True)
    for prompt, rows in list(dial.rows().items())[:_PRINTED_PROMPTS]:
        table = Table("strength", "text", title=prompt, title_justify="left", expand=True)
        for strength, text in rows:
            colour = "red" if strength < 0 else "green" if strength > 0 else "default"
            table.add_row(signed(strength), text, style=colour)
        console.print(table)
    table = Table("strength", "positive share", "perplexity (unsteered model)", title="Measured", title_justify="left")
    for point in dial.curve:
        table.add_row(signed(point.strength), percent(point.positive_share), f"{point.perplexity:.1f}")
    console.print(table)
