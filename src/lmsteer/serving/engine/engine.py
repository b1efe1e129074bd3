"""The engine: one thread that owns the model, and the queue before it.

::

    submit ──> waiting ──take──> being read ──> at work ──step──> a token a row, again and again
                  ^                                │
                  └─────────── sent back ──────────┘   when all together outgrow the limits

A turn reads a piece of the newcomers' prompts and writes a token more for everybody else, so that nobody waits for a
long prompt. Work that needs the model for itself (reading a text, say) is done between two steps.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, TypeVar

import torch

from lmsteer.errors import LMSteerError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.batch import PIECE, SPARE
from lmsteer.serving.engine.requests import Chunk, GeneratedSequence, Request
from lmsteer.serving.engine.scheduler import Scheduler

_log = logging.getLogger(__name__)
T = TypeVar("T")


class BusyError(LMSteerError):
    """Too much waits already; come again later."""


class StoppedError(LMSteerError):
    """The engine takes nothing any more."""


class StepError(LMSteerError):
    """A step failed, with all the rows that were in it."""


@dataclass(frozen=True)
class EngineConfig:
    """What an engine takes on.

    Attributes:
        rows: at once.
        waiting: rows that may wait beside them.
        tokens: of all rows together, padding included, whose keys and values are kept at once.
    """

    rows: int = 32
    waiting: int = 128
    tokens: int = 32_768

    @property
    def readings(self) -> int:
        """Texts that may wait to be read: one at least, for an engine at which nothing may wait reads as well."""
        return max(1, self.waiting)


class Engine:
    """Writes rows, as many at once as its limits let.

    Args:
        lm: the model. Other threads that use it take turns with the engine's, step by step.
        limits: what is taken on.

    Raises:
        ModelError: the model does not go on from what it has kept as it would from the text.
    """

    def __init__(self, lm: LM, limits: EngineConfig = EngineConfig()) -> None:
        self.lm, self.limits = lm, limits
        self._work, self._waiting = Scheduler(lm), deque[GeneratedSequence]()
        self._most = min(limits.rows, self._work.most or limits.rows)
        self._jobs = deque[tuple[Callable[[], None], Future[Any]]]()
        self._changed = Condition()
        self._closing = False
        self._numbers = 0
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Rows that are being read or written."""
        return sum(not row.cancelled for row in [*self._work.rows, *self._work.reading])

    @property
    def waiting(self) -> int:
        """Rows that wait for a place."""
        return sum(not row.cancelled for row in [*self._waiting])

    @property
    def alive(self) -> bool:
        """Whether it takes orders."""
        return self._thread.is_alive() and not self._closing

    @property
    def steps(self) -> int:
        """Forward passes so far."""
        return self._work.steps

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return self._work.bytes

    def submit(self, orders: Sequence[Request], tell: Callable[[int, Chunk], None]) -> list[GeneratedSequence]:
        """Have rows written, all of them or none; their pieces are told from the engine's thread, with the row's place.

        Raises:
            BusyError: too many rows wait.
            StoppedError: the engine is closed.
            LMSteerError: rows that would need more than all there is.
        """
        if len(orders) > self.limits.waiting + self._most:
            raise LMSteerError(f"{len(orders)} rows are more than can be written and wait together.")
        for order in orders:
            if (need := len(order.ids) + order.max_new_tokens) > self.limits.tokens:
                raise LMSteerError(f"{need:,} tokens are more than the {self.limits.tokens:,} that are kept at once.")
        with self._changed:
            self._check_alive()
            if self.waiting + len(orders) > self.limits.waiting + max(0, self._most - self.running):
                raise BusyError(f"{self.waiting} rows are waiting already.")
            rows = [
                GeneratedSequence(self.lm, order, self._numbers + k, _at(k, tell)) for k, order in enumerate(orders)
            ]
            self._numbers += len(rows)
            self._waiting.extend(rows)
            self._changed.notify()
        return rows

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have something done with the model between two steps, one thing between any two.

        Raises:
            BusyError: too much waits to be done.
            StoppedError: the engine is closed.
        """
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:  # whoever asked is told
                    future.set_exception(error)

        with self._changed:
            self._check_alive()
            waiting = sum(not each.cancelled() for _, each in self._jobs)
            if waiting >= self.limits.readings:
                raise BusyError(f"{waiting} texts are waiting to be read already.")
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Take nothing more, tell all rows so, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _check_alive(self) -> None:
        if not self.alive:
            raise StoppedError("the server is stopping.")

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._turn()
                except Exception as error:  # out of memory, say: those rows are lost, and the next ones are served
                    _log.exception("a step failed")
                    self._work.drop_all(StepError(f"the step failed: {error}"))
        finally:
            self._end()

    def _wait(self) -> bool:
        """Until there is something to do; False when closing."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._jobs or self._waiting or self._work.reading or self._work.rows
            )
        return not self._closing

    def _turn(self) -> None:
        """One thing that was called for, a piece of newcomers' prompts, and a step."""
        with self._changed:
            job = self._jobs.popleft()[0] if self._jobs else None
        if job is not None:
            with self._work.unsteered():
                job()
        self._admit()
        if self._work.reading:
            self._work.read()
        self._make_way()
        if len(self._work):
            self._work.step()

    def _admit(self) -> None:
        """Let those in who have a place, in the order in which they came, when all before them are read."""
        new: list[GeneratedSequence] = []
        with self._changed:
            gone = [row for row in self._waiting if row.cancelled or row.late]
            self._waiting = deque(row for row in self._waiting if row not in gone)
            while not self._work.reading and self._waiting and self._has_place(new, self._waiting[0]):
                new.append(self._waiting.popleft())
        for row in gone:
            row.expire()
        if new:
            self._work.take(new)

    def _has_place(self, new: Sequence[GeneratedSequence], row: GeneratedSequence) -> bool:
        """Whether a row fits among newcomers that are read in one piece, and the keys and values within the limits.

        Those are padded to the longest row, and there is to be room for some more.
        """
        if new and (len(new) + 1) * max(len(each.ids) for each in [*new, row]) > PIECE:
            return False
        rows = [*self._work.rows, *new]
        longest = max(len(each.ids) for each in [*rows, row]) + SPARE
        return len(rows) < self._most and (not rows or (len(rows) + 1) * longest <= self.limits.tokens)

    def _make_way(self) -> None:
        """Send the rows that came last back to wait, when all together have grown too long."""
        while len(self._work) * (self._work.longest + 1) > self.limits.tokens:
            row = self._work.send_back()
            with self._changed:
                self._waiting.appendleft(row)

    def _end(self) -> None:
        """Tell everybody who still waits."""
        stopped = StoppedError("the server is stopping.")
        with self._changed:
            self._closing = True
            waiting, jobs = [*self._waiting], [future for _, future in self._jobs]
            self._waiting.clear()
            self._jobs.clear()
        self._work.drop_all(stopped)
        self._work.close()
        for row in waiting:
            row.fail(stopped)
        for future in jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopped)


def _at(place: int, tell: Callable[[int, Chunk], None]) -> Callable[[Chunk], None]:
    return lambda piece: tell(place, piece)
