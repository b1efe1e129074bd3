"""How the cache is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lmsteer.cache import Entry


def cached(out: Console, found: Sequence[Entry], title: str) -> None:
    """What the cache holds, or held, with its size."""
    table = Table("kind", "of", "MB", title=title, title_justify="left")
    for entry in found:
        table.add_row(entry.kind, entry.about, f"{entry.size / 1e6:,.1f}")
    table.add_section()
    table.add_row("all", "", f"{sum(entry.size for entry in found) / 1e6:,.1f}")
    out.print(table)


def entries_as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in found]
