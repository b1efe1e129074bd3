"""Progress: long work tells how far it is and how well it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

# Opened with a title, a total and where to start; gives a function that is told each advance and what came of it,
# in a few words.
Step = Callable[[int, str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Step]]

# Seconds between two lines where there is no terminal to draw on.
_LINE_EVERY = 30.0


@contextmanager
def no_progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
    """Say nothing."""
    yield lambda advance, said: None


def bars() -> Progress:
    """Tell on standard error: a bar on a terminal, elsewhere (a log file) a line now and then."""
    console = Console(stderr=True)
    return _bar(console) if console.is_terminal or console.is_jupyter else _lines(console)


def _bar(console: Console) -> Progress:
    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, TextColumn("{task.fields[said]}"), console=console) as shown:
            task = shown.add_task(title, total=total, completed=start, said="")

            def step(advance: int, said: str) -> None:
                shown.update(task, advance=advance, said=said)

            yield step

    return progress


def _lines(console: Console) -> Progress:
    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        done, told = start, time.monotonic()

        def step(advance: int, said: str) -> None:
            nonlocal done, told
            done += advance
            if time.monotonic() - told >= _LINE_EVERY:
                console.print(
                    f"{title}: {done} of {total} {said}".rstrip(), markup=False, highlight=False, soft_wrap=True
                )
                told = time.monotonic()

        yield step

    return progress
