"""The command-line application and its two consoles."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(
    help="Change the style of a language model's text with a number: fit, apply, read and verify steers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
stdout, stderr = Console(), Console(stderr=True)


def note(message: str) -> None:
    """Print a message on standard error, as it stands."""
    stderr.print(message, markup=False, highlight=False)


def warn(message: str) -> None:
    """Print a warning on standard error, as it stands."""
    stderr.print(message, style="yellow", markup=False, highlight=False)
