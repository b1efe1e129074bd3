"""Progress: long work tells how far it is and how well it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

# Opened with a title, a total and where to start; gives a function that is told each advance and what came of it,
# in a few words.
Step = Callable[[int, str], None]
Progress = Callable[[str, int, int], AbstractContextManager[Step]]


@contextmanager
def no_progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
    """Say nothing."""
    yield lambda advance, said: None


def bars() -> Progress:
    """Draw a bar on standard error."""

    @contextmanager
    def progress(title: str, total: int, start: int = 0) -> Iterator[Step]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, TextColumn("{task.fields[said]}"), console=Console(stderr=True)) as shown:
            task = shown.add_task(title, total=total, completed=start, said="")

            def step(advance: int, said: str) -> None:
                shown.update(task, advance=advance, said=said)

            yield step

    return progress
