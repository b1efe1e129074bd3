"""Timing: two ways in turn in one process, medians, and what the machine can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """What the machine was measured to do.

    Attributes:
        matrix_rate: operations a second of a large float32 matrix product.
        bandwidth: bytes a second of a large copy, read and written.
    """

    matrix_rate: float
    bandwidth: float

    @classmethod
    def measured(cls) -> Machine:
        """Measure this machine."""
        a = torch.randn(2048, 2048)
        source, target = torch.ones(2**26), torch.ones(2**26)
        product = min(seconds(lambda: a @ a) for _ in range(20))
        copy = min(seconds(lambda: target.copy_(source)) for _ in range(20))
        return cls(2 * 2048**3 / product, 2 * 4 * 2**26 / copy)


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: what was done.
        naive: median seconds of the published way.
        ours: median seconds of ours.
        floor: seconds that the operations or bytes of ours take at the machine's rates; None where that means little.
        note: how it was measured, where it is not plain.
    """

    what: str
    naive: float
    ours: float
    floor: float | None = None
    note: str = ""

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
