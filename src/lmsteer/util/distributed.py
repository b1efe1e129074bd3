"""Several processes, under ``accelerate launch``: each reads its share of the texts, and the sums are added.

They meet in files: each saves the statistics of its share beside the steer, waits for the others, and takes all of
them in, so that they need a disk in common. Machines that share none can do the same by hand, with
``--save-statistics`` and ``--statistics``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState

from lmsteer.util.devices import accelerator

T = TypeVar("T")
# One share may take hours longer than another, most of all when an interrupted fit is gone on with.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes of a launch, and which of them this is; one, where nothing was launched.

    Attributes:
        index: of this process.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Those that this process was launched with."""
        if int(os.environ.get("WORLD_SIZE") or 1) < 2:
            return cls()
        state = _state()
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that saves and tells."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share."""
        return items[self.index :: self.count]

    def parts(self, folder: Path, whole: str) -> list[tuple[Path, str]]:
        """For each process, its folder beside ``folder`` and which share of the ``whole`` it holds."""
        if self.count == 1:
            return [(folder, "")]
        return [
            (folder.with_name(f"{folder.name}-{index}"), f"{index + 1} of {self.count} of {whole}")
            for index in range(self.count)
        ]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            _state().wait_for_everyone()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process through, then the others: they find in the cache what it has made."""
        if self.count == 1:
            yield
            return
        with _state().main_process_first():
            yield


def _state() -> PartialState:
    """accelerate's own; without a GPU it has to be told to look for other processes."""
    return PartialState(cpu=accelerator() is None, timeout=_PATIENCE)
