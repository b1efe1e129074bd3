"""The command-line application and its two consoles."""

from __future__ import annotations

from collections.abc import Iterable

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lmsteer.util.escapes import one_line, visible

app = typer.Typer(
    help="Change the style of a language model's text with a number: fit, apply, read and verify steers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class SafeConsole(Console):
    """A console that shows the control characters of texts as escapes, so that no text can change the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything into segments of text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


stdout, stderr = SafeConsole(), SafeConsole(stderr=True)


def note(message: str) -> None:
    """Print a message on one line of standard error, as it stands."""
    _tell(message, style=None)


def warn(message: str) -> None:
    """Print a warning on one line of standard error, as it stands."""
    _tell(message, style="yellow")


def tell_error(message: str) -> None:
    """Print what went wrong on one line of standard error, as it stands."""
    _tell(f"lmsteer: {message}", style="red")


def _tell(message: str, style: str | None) -> None:
    stderr.print(one_line(message), style=style, markup=False, highlight=False, soft_wrap=True)
