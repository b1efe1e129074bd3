"""Progress: long work tells how far it is and how well it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

# Opened with a title, a total and where to start; gives a function that is told each advance and what came of it.
Step = Callable[[int, Any], None]
Progress = Callable[[str, int, int], AbstractContextManager[Step]]


@contextmanager
def no_progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
    """Say nothing."""
    yield lambda advance, result: None


def bars(describe: Callable[[Any], str] = lambda result: "") -> Progress:
    """Draw a bar on standard error.

    Args:
        describe: says in a few words what came of the work so far.
    """

    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, TextColumn("{task.fields[said]}"), console=Console(stderr=True)) as shown:
            task = shown.add_task(title, total=total, completed=start, said="")

            def step(advance: int, result: Any) -> None:
                shown.update(task, advance=advance, said=describe(result))

            yield step

    return progress
