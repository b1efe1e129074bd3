"""How lists of what there is are printed: steers, and the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import signed
from lmsteer.steer.steer import Steer
from lmsteer.util.disk_cache import Entry


def cached(out: Console, found: Sequence[Entry], title: str) -> None:
    """What the cache holds, or held, with its size."""
    table = Table("kind", "of", "MB", title=escape(title), title_justify="left")
    for entry in found:
        table.add_row(entry.kind, escape(entry.about), f"{entry.size / 1e6:,.1f}")
    table.add_section()
    table.add_row("all", "", f"{sum(entry.size for entry in found) / 1e6:,.1f}")
    out.print(table)


def entries_as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in found]


def known_steers(out: Console, found: Mapping[str, Steer], shipped: str) -> None:
    """Steers by folder: what they do, how well they read, how far they may be turned."""
    table = Table("name", "+1 means", "base", "labels told", "safe strengths", "where")
    for folder, steer in found.items():
        card = steer.card
        test = card.held_out.get("test", card.held_out)
        told = f"{test['sign_accuracy']:.0%} of {test['texts']:,}" if test.get("sign_accuracy") is not None else ""
        ends = "" if card.safe_range is None else " to ".join(map(signed, card.safe_range))
        where = "ships" if folder.startswith(shipped) else folder
        table.add_row(*map(escape, (card.name, card.label, card.base, told, ends, where)))
    out.print(table)


def known_steers_as_json(found: Mapping[str, Steer]) -> list[dict[str, Any]]:
    """The same for machines, with whole cards."""
    return [
        {"folder": folder, "form": steer.form, "rank": steer.rank, "card": dataclasses.asdict(steer.card)}
        for folder, steer in found.items()
    ]
