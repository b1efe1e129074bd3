"""How lists of what there is are printed: steers, and the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import signed
from lmsteer.steer.lookup import SavedSteer
from lmsteer.util.disk_cache import Entry


def cached(out: Console, found: Sequence[Entry], title: str) -> None:
    """What the cache holds, or held, with its size."""
    table = Table("kind", "of", "MB", title=escape(title), title_justify="left")
    for entry in found:
        table.add_row(entry.kind, escape(entry.contents), f"{entry.size / 1e6:,.1f}")
    table.add_section()
    table.add_row("all", "", f"{sum(entry.size for entry in found) / 1e6:,.1f}")
    out.print(table)


def entries_as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in found]


def known_steers(out: Console, found: Sequence[SavedSteer]) -> None:
    """Saved steers: what +1 means, how well they tell the label of held-out texts, and their safe range."""
    table = Table("name", "+1 means", "base", "held-out sign accuracy", "safe range", "folder")
    for steer in found:
        card = steer.card
        test = card.held_out.get("test", card.held_out)
        known = test.get("sign_accuracy") is not None
        accuracy = f"{test['sign_accuracy']:.0%} of {test['texts']:,}" if known else ""
        ends = "" if card.safe_range is None else " to ".join(map(signed, card.safe_range))
        where = "ships" if steer.is_shipped else str(steer.folder)
        table.add_row(*map(escape, (card.name, card.label, card.base, accuracy, ends, where)))
    out.print(table)
