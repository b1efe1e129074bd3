"""Several processes, started by ``accelerate launch`` or ``torchrun``: each reads its share of the texts.

The processes exchange files: each saves the statistics of its share beside the steer, waits for the others, and the
main process adds them up. So they need a common disk. Machines without one can do the same by hand, with
``--save-statistics`` and ``--statistics``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from lmsteer.errors import LMSteerError, OutputError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
# One share may take hours longer than another, above all when an interrupted fit is resumed.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes of one launch, and the place of this process among them. The names are accelerate's.

    Attributes:
        index: the index of this process, from 0.
        count: the number of processes; 1 if there was no launch.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """The processes that this one was launched with."""
        if int(os.environ.get("WORLD_SIZE") or 1) < 2:
            return cls()
        state = _state()
        return cls(state.process_index, state.num_processes)

    @property
    def is_main_process(self) -> bool:
        """Whether this process saves and prints the result."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items; the shares are disjoint and complete."""
        return items[self.index :: self.count]

    def parts(self, folder: Path, whole: str) -> list[tuple[Path, str]]:
        """The folder of each process, beside ``folder``, and which share of the ``whole`` it holds, in words."""
        if self.count == 1:
            return [(folder, "")]
        return [
            (folder.with_name(f"{folder.name}-{index}"), f"{index + 1} of {self.count} of {whole}")
            for index in range(self.count)
        ]

    def wait_for_everyone(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            _state().wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run a ``with`` block in the main process, then in the others, which find its results in the cache."""
        if self.count == 1:
            yield
            return
        with _state().main_process_first():
            yield


@contextmanager
def first_process_writes(split: bool, folder: Path) -> Iterator[Path]:
    """The folder that a process writes to, within a ``with`` block, where processes that share a model all do the same.

    The first writes to ``folder``, the others to a temporary one, which is gone afterwards. They wait for each other.

    Args:
        split: whether the weights of the model are split over processes; else this process writes to ``folder``.
        folder: the folder.

    Raises:
        OutputError: another process failed, such as the first one, whose disk is full.
    """
    if not split:
        yield folder
        return
    import torch.distributed

    try:
        with TemporaryDirectory() as scratch:
            yield folder if torch.distributed.get_rank() == 0 else Path(scratch) / folder.name
    except LMSteerError as error:  # of any other error the process ends, and its launcher ends the others
        _outcomes(str(error))
        raise
    if failed := _outcomes(""):
        raise OutputError(f"process {failed[0][0]} of this fit failed: {failed[0][1]}")


def _outcomes(error: str) -> list[tuple[int, str]]:
    """The index and the error of each process that failed; each one gives its own, empty if it did not."""
    import torch.distributed

    errors = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(errors, error)
    return [(index, each) for index, each in enumerate(errors) if each]


def _state() -> PartialState:
    """accelerate's connection between the processes.

    It looks for an accelerator's backend by itself. Where there is none (a CPU, or Apple's GPU), every process would
    believe itself to be alone, unless the CPU's backend is asked for.
    """
    from accelerate import PartialState

    from lmsteer.util.devices import accelerator

    device = accelerator()
    return PartialState(cpu=device is None or device.type == "mps", timeout=_TIMEOUT)
