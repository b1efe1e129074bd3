"""How the contents of the cache are printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.util.disk_cache import Entry


def print_entries(out: Console, entries: Sequence[Entry], title: str) -> None:
    """Entries of the cache with their sizes."""
    table = Table("kind", "content", "MB", title=escape(title), title_justify="left")
    for entry in entries:
        table.add_row(entry.kind, escape(entry.contents), f"{entry.size / 1e6:,.1f}")
    table.add_section()
    table.add_row("all", "", f"{sum(entry.size for entry in entries) / 1e6:,.1f}")
    out.print(table)
