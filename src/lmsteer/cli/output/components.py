"""How the components of steers are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from lmsteer.reading.components import Component


def print_components(out: Console, steers: Mapping[str, Sequence[Component]]) -> None:
    """The words at both ends of each component, of one steer or of several side by side."""
    several = len(steers) > 1
    table = Table(*(["steer"] if several else []), "share", "likelier at + strengths", "likelier at - strengths")
    for components in zip_longest(*steers.values()):
        table.add_section()
        for name, component in zip(steers, components, strict=True):
            if component is not None:
                ends = (component.upper, component.lower)
                words = [", ".join(f"{word.text} {word.weight:+.1f}" for word in end) for end in ends]
                table.add_row(*([escape(name)] if several else []), f"{component.share:.0%}", *map(escape, words))
    out.print(table)
