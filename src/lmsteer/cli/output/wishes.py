"""How the list of wishes is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.data.wishes import Wish


def print_wishes(out: Console, wishes: Sequence[Wish]) -> None:
    """What +1 means, both ends in words, and the scorer that shows it, with the sign in which it moves."""
    table = Table("name", "+1 means", "positive", "negative", "scorer")
    for wish in wishes:
        scorer = f"{'+' if wish.direction > 0 else '-'}{wish.scorer}" if wish.scorer else ""
        table.add_row(*map(escape, (wish.name, wish.label, wish.positive, wish.negative, scorer)))
    out.print(table)
