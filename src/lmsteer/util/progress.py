"""Progress of long work, and notices, on standard error.

Functions that take long have an argument ``progress``. They open it with a title, a total (0 if nobody knows it) and a
count to start from, and call the resulting ``Step`` with each advance and a short message (the loss, the condition)::

    with progress("fitting", len(batches), done) as step:
        for batch in batches:
            step(1, f"loss {fit(batch):.3f}")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Step = Callable[[int, str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Step]]

# Seconds between two lines where there is no terminal to draw a bar on.
_LINE_EVERY = 30.0


def notice(message: str) -> None:
    """Print one line for the user on standard error."""
    print(message, file=sys.stderr, flush=True)


@cache
def notice_once(message: str) -> None:
    """Print one line for the user on standard error, once in a process."""
    notice(message)


@contextmanager
def no_progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
    """Show nothing."""
    yield lambda advance, message: None


def bars() -> Progress:
    """Show progress on standard error: a bar on a terminal; elsewhere, as in a log file, a line every 30 seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    return _bar(console) if console.is_terminal or console.is_jupyter else _lines(console)


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, TextColumn("{task.fields[message]}"), console=console) as shown:
            task = shown.add_task(title, total=total or None, completed=start, message="")

            def step(advance: int, message: str) -> None:
                shown.update(task, advance=advance, message=message)

            yield step

    return progress


def _lines(console: Console) -> Progress:
    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        done, last_line = start, time.monotonic()

        def step(advance: int, message: str) -> None:
            nonlocal done, last_line
            done += advance
            if time.monotonic() - last_line >= _LINE_EVERY:
                share = f"{done} of {total}" if total else f"{done}"
                line = f"{title}: {share} {message}".rstrip()
                console.print(line, markup=False, highlight=False, soft_wrap=True)
                last_line = time.monotonic()

        yield step

    return progress
