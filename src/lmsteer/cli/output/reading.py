"""How readings are printed: texts, steers and proofs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lmsteer.reading.analyse import Analysis
from lmsteer.reading.components import Component
from lmsteer.reading.held_out import HeldOutMetrics
from lmsteer.reading.html import ShadedWord, shaded_words
from lmsteer.reading.verify import Check, Verification

# Words whose shade is below this are not shaded on a terminal, whose shades are few.
_FAINT = 0.1
_BLOCKS = "▁▂▃▄▅▆▇█"


def analyses(out: Console, found: Sequence[Analysis]) -> None:
    """Texts with their words shaded, a block for each dimension."""
    for analysis in found:
        for name, dimension in analysis.dimensions.items():
            position = dimension.position
            told = "" if position.probability is None else f", p(+1) = {position.probability:.0%}"
            out.print(
                f"\n[bold]{escape(name)}[/] {position.score:+.2f} nats{told}, likeliest at {position.best:+.1f} "
                f"{_sparkline(position.shares)} ({position.strengths[0]:+g} to {position.strengths[-1]:+g})",
                highlight=False,
            )
            shown = Text("  ")
            for piece in shaded_words(analysis, dimension):
                shown.append(" ".join(piece.before.split("\n")))
                shown.append(piece.text, style=_shade(piece))
            out.print(shown, soft_wrap=True)
            lines = [(span.score, escape(analysis.span_text(span))) for span in dimension.spans]
            lines += [(dimension.end, "[dim]the end of the text[/]")] if dimension.end else []
            for score, what in lines:
                out.print(f"  [{'red' if score < 0 else 'green'}]{score:+6.2f}[/] {what}", highlight=False)


def _shade(piece: ShadedWord) -> Style:
    """A word's background: towards red or green, on a dark ground or a light one."""
    weight = piece.shade**0.5 if piece.shade > _FAINT else 0.0
    if not weight:
        return Style(underline=bool(piece.span))
    low, high = (120, 30, 20), (20, 95, 60)
    red, green, blue = (round(40 + weight * (c - 40)) for c in (low if piece.evidence < 0 else high))
    return Style(color="white", bgcolor=f"rgb({red},{green},{blue})", underline=bool(piece.span))


def _sparkline(shares: Sequence[float]) -> str:
    return "".join(_BLOCKS[round(share / max(shares) * (len(_BLOCKS) - 1))] for share in shares)


def components(out: Console, found: Sequence[tuple[str, Sequence[Component]]]) -> None:
    """The words at both ends of each component of a steer, or of several steers side by side."""
    several = len(found) > 1
    table = Table(*(["steer"] if several else []), "share", "at + strengths, likelier words", "at - strengths")
    for components in zip_longest(*(parts for _, parts in found)):
        table.add_section()
        for (name, _), component in zip(found, components, strict=True):
            if component is not None:
                ends = (component.upper, component.lower)
                words = [", ".join(f"{word.text} {word.weight:+.1f}" for word in end) for end in ends]
                table.add_row(*([escape(name)] if several else []), f"{component.share:.0%}", *map(escape, words))
    out.print(table)


def component_as_json(component: Component) -> dict[str, Any]:
    """The same of one, for machines."""
    upper, lower = ({word.text: word.weight for word in end} for end in (component.upper, component.lower))
    return {"share": component.share, "upper": upper, "lower": lower}


def verification(out: Console, done: Verification, source: str) -> None:
    """The checks as a table, and the reading of held-out texts."""
    table = Table("check", "difference", "must be", "")
    for check in done.checks:
        table.add_row(check.what, f"{check.difference:.2e}", _bound(check), "ok" if check.passed else "FAILED")
    out.print(table)
    if done.held_out is None:
        where = f"The card's texts ({escape(source)}) are not here. " if source else ""
        out.print(f"{where}No labelled texts were read: name some with --data.")
        return
    out.print(f"{done.held_out.texts} held-out texts ({escape(source)}): {_reading(done.held_out)}")


def verification_as_json(done: Verification) -> dict[str, Any]:
    """The same for machines; what there was nothing to read of is null."""
    reading = done.held_out.to_json() if done.held_out else None
    return {"checks": [dataclasses.asdict(check) for check in done.checks], "reading": reading, "acts": done.acts}


def _reading(reading: HeldOutMetrics) -> str:
    sides = (
        ("positive texts at +1", reading.log_likelihood_gain_positive),
        ("negative texts at -1", reading.log_likelihood_gain_negative),
    )
    of_sides = "".join(f"{which} {gain:+.4f}, " for which, gain in sides if not math.isnan(gain))
    whole, inside = map(_accuracy, (reading.sign_accuracy, reading.sign_accuracy_without_eos))
    return (
        f"log-likelihood of {of_sides}all texts at their label {reading.log_likelihood_gain:+.4f} nats a token{whole}. "
        f"Without the end-of-text tokens: {reading.log_likelihood_gain_without_eos:+.4f} nats a token{inside}."
    )


def _accuracy(accuracy: float) -> str:
    return "" if math.isnan(accuracy) else f", sign accuracy {accuracy:.1%}"


def _bound(check: Check) -> str:
    return "more than 0" if check.at_least else "0" if check.limit == 0 else f"at most {check.limit:.0e}"
