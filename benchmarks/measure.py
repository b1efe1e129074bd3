"""Timing and memory: two ways in turn in one process, medians, peaks, and what the machine can do at best."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from lmsteer.model.onednn import linear


@dataclass(frozen=True)
class Machine:
    """What the machine was measured to do.

    Attributes:
        matrix_rate: operations a second of a large float32 matrix product, by the faster of torch's own way and ours.
        torch_rate: the same by torch's own.
        bandwidth: bytes a second of a large copy, read and written.
    """

    matrix_rate: float
    torch_rate: float
    bandwidth: float

    @classmethod
    def measured(cls) -> Machine:
        """Measure this machine."""
        a = torch.randn(2048, 2048)
        source, target = torch.ones(2**26), torch.ones(2**26)
        own, other = (min(seconds(way) for _ in range(20)) for way in (lambda: a @ a, lambda: linear(a, a)))
        copy = min(seconds(lambda: target.copy_(source)) for _ in range(20))
        return cls(2 * 2048**3 / min(own, other), 2 * 2048**3 / own, 2 * 4 * 2**26 / copy)


@dataclass(frozen=True)
class Ways:
    """Two ways to one end.

    Attributes:
        what: is done.
        naive: the published way, or a part of it.
        ours: our way.
        times: how many runs of ``naive`` do all of it.
        floor: seconds that the operations or bytes of ours take at the machine's rates; None where that means little.
        note: how it was measured, where it is not plain.
        repeats: of both.
    """

    what: str
    naive: Callable[[], object]
    ours: Callable[[], object]
    times: float = 1
    floor: float | None = None
    note: str = ""
    repeats: int = 5

    def measured(self) -> Line:
        """Run both in turn."""
        naive, ours = in_turn(self.naive, self.ours, repeats=self.repeats)
        return Line(self.what, self.times * naive, ours, self.floor, self.note)


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: was done.
        naive: median seconds of the published way.
        ours: median seconds of ours.
        floor: as in ``Ways``.
        note: likewise.
        naive_bytes: peak memory of the published way above the loaded model; None where it was not looked at.
        our_bytes: of ours.
    """

    what: str
    naive: float
    ours: float
    floor: float | None = None
    note: str = ""
    naive_bytes: float | None = None
    our_bytes: float | None = None

    @property
    def ratio(self) -> float:
        """How many times sooner ours is done."""
        return self.naive / self.ours

    @property
    def share(self) -> float | None:
        """Our share of the floor: 1 would be the machine's limit."""
        return None if self.floor is None else self.floor / self.ours


def seconds(work: Callable[[], object]) -> float:
    """How long one run takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(*ways: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median seconds of each way, the ways run in turn so that a slower spell of the machine meets them all."""
    for way in ways:
        way()
    times = [[seconds(way) for way in ways] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak_bytes(work: Callable[[], object]) -> float:
    """How far one run raises the resident memory of this process, which should be fresh but for what it works on."""
    gc.collect()
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(peak - before, 0)
