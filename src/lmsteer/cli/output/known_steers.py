"""How the list of steers is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import signed
from lmsteer.steer.lookup import SavedSteer
from lmsteer.util.records import number_in


def print_known_steers(out: Console, steers: Sequence[SavedSteer]) -> None:
    """Saved steers: what +1 means, how well they predict the labels of held-out texts, and their safe range."""
    table = Table("name", "+1 means", "base", "labels predicted", "safe range", "folder")
    for steer in steers:
        card = steer.card
        test = card.held_out.get("test")
        test = test if isinstance(test, dict) else card.held_out
        share, texts = number_in(test, "sign_accuracy"), number_in(test, "texts")
        accuracy = "" if share is None or texts is None else f"{share:.0%} of {texts:,}"
        ends = "" if card.safe_range is None else " to ".join(map(signed, card.safe_range))
        where = "ships" if steer.is_shipped else str(steer.folder)
        table.add_row(*map(escape, (card.name, card.label, card.base, accuracy, ends, where)))
    out.print(table)
