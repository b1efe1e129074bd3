"""How texts that were read are printed: their words shaded by evidence."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.text import Text

from lmsteer.reading.analyse import Analysis
from lmsteer.reading.html import ShadedWord, shaded_words

# Words with less shade than this are not shaded: a terminal has few shades.
_FAINT = 0.1
_BLOCKS = "▁▂▃▄▅▆▇█"


def print_analyses(out: Console, analyses: Sequence[Analysis]) -> None:
    """Texts with shaded words, a block for each dimension."""
    for analysis in analyses:
        for name, dimension in analysis.dimensions.items():
            position = dimension.position
            probability = "" if position.probability is None else f", p(+1) = {position.probability:.0%}"
            out.print(
                f"\n[bold]{escape(name)}[/] {position.score:+.2f} nats{probability}, likeliest at {position.best:+.1f} "
                f"{_sparkline(position.shares)} ({position.strengths[0]:+g} to {position.strengths[-1]:+g})",
                highlight=False,
            )
            shown = Text("  ")
            for word in shaded_words(analysis, dimension):
                shown.append(" ".join(word.before.split("\n")))
                shown.append(word.text, style=_shade(word))
            out.print(shown, soft_wrap=True)
            lines = [(span.score, escape(analysis.span_text(span))) for span in dimension.spans]
            lines += [(dimension.end, "[dim]the end of the text[/]")] if dimension.end else []
            for score, what in lines:
                out.print(f"  [{'red' if score < 0 else 'green'}]{score:+6.2f}[/] {what}", highlight=False)


def _shade(word: ShadedWord) -> Style:
    """The background of a word: red for evidence against the dimension, green for evidence for it."""
    weight = word.shade**0.5 if word.shade > _FAINT else 0.0
    if not weight:
        return Style(underline=bool(word.span))
    low, high = (120, 30, 20), (20, 95, 60)
    red, green, blue = (round(40 + weight * (c - 40)) for c in (low if word.evidence < 0 else high))
    return Style(color="white", bgcolor=f"rgb({red},{green},{blue})", underline=bool(word.span))


def _sparkline(shares: Sequence[float]) -> str:
    return "".join(_BLOCKS[round(share / max(shares) * (len(_BLOCKS) - 1))] for share in shares)
