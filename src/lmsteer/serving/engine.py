"""The engine: one thread that owns the model. Rows of different requests, at different strengths, share each step.

::

    submit ──> waiting ──join──> rows ──step──> logits ──draw──> a token a row ──tell──> pieces
                                  │  └── a dial a row turns the hidden states in front of the head
                                  └── leave: ended, cancelled, out of time

Work that needs the model for itself (reading a text, say) is done between two steps.
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
from torch import Tensor

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.lm import LM
from lmsteer.memory import give_back
from lmsteer.sampling import draw
from lmsteer.serving.batch import SPARE
from lmsteer.serving.orders import Chosen, Order, Piece, Written, chosen_of
from lmsteer.serving.rows import rows_for
from lmsteer.steers.mix import Mix

# Prompt tokens that are read between two steps, padding included, or one prompt if it is longer: so that those who are
# being served do not wait long for newcomers.
_READ_AT_ONCE = 1024
_log = logging.getLogger(__name__)
T = TypeVar("T")


class BusyError(LMSteerError):
    """Too much waits already; come again later."""


class StoppedError(LMSteerError):
    """The engine takes nothing any more."""


class StepError(LMSteerError):
    """A step failed, with all the rows that were in it."""


@dataclass(frozen=True)
class Limits:
    """What an engine takes on.

    Attributes:
        rows: at once.
        waiting: rows that may wait beside them.
        tokens: of all rows together, padding included, whose keys and values are kept at once.
    """

    rows: int = 32
    waiting: int = 128
    tokens: int = 32_768


class Engine:
    """Writes rows, as many at once as its limits let.

    Args:
        lm: the model, which nothing else may use from now on.
        limits: what is taken on.

    Attributes:
        steps: forward passes so far.

    Raises:
        ModelError: the model does not go on from what it has kept as it would from the text.
    """

    def __init__(self, lm: LM, limits: Limits = Limits()) -> None:
        self.lm, self.limits = lm, limits
        self._rows, most = rows_for(lm)
        self._most = min(limits.rows, most or limits.rows)
        self._written, self._waiting = list[Written](), deque[Written]()
        self._jobs = deque[tuple[Callable[[], None], Future[Any]]]()
        self._changed = Condition()
        self._closing = False
        self.steps = self._numbers = 0
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Rows that are being written."""
        return sum(not row.cancelled for row in [*self._written])

    @property
    def waiting(self) -> int:
        """Rows that wait for a place."""
        return sum(not row.cancelled for row in [*self._waiting])

    @property
    def alive(self) -> bool:
        """Whether it takes orders."""
        return self._thread.is_alive() and not self._closing

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return self._rows.bytes

    def submit(self, orders: Sequence[Order], tell: Callable[[int, Piece], None]) -> list[Written]:
        """Have rows written, all of them or none; their pieces are told from the engine's thread, with the row's place.

        Raises:
            BusyError: too many rows wait.
            StoppedError: the engine is closed.
            LMSteerError: a row that would need more than all there is.
        """
        if len(orders) > self.limits.waiting + self._most:
            raise LMSteerError(f"{len(orders)} rows are more than can be written and wait together.")
        for order in orders:
            if (need := len(order.ids) + order.max_new_tokens) > self.limits.tokens:
                raise LMSteerError(f"{need:,} tokens are more than the {self.limits.tokens:,} that are kept at once.")
        with self._changed:
            if not self.alive:
                raise StoppedError("the server is stopping.")
            if self.waiting + len(orders) > self.limits.waiting + max(0, self._most - self.running):
                raise BusyError(f"{self.waiting} rows are waiting already.")
            rows = [
                Written(self.lm, order, self._numbers + place, _at(place, tell)) for place, order in enumerate(orders)
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
            if not self.alive:
                raise StoppedError("the server is stopping.")
            if len(self._jobs) >= self.limits.waiting:
                raise BusyError(f"{len(self._jobs)} texts are waiting to be read already.")
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Take nothing more, tell all rows so, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            with self.lm.steered(Mix({}, {})) as self._handle:
                while self._wait():
                    try:
                        self._turn()
                    except Exception as error:  # out of memory, say: those rows are lost, and the next ones are served
                        _log.exception("a step failed")
                        self._drop_all(StepError(f"the step failed: {error}"))
        finally:
            self._end()

    def _wait(self) -> bool:
        """Until there is something to do; False when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._jobs or self._waiting or self._written)
        return not self._closing

    def _turn(self) -> None:
        """One thing that was called for, newcomers, and a step."""
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
        if job is not None:
            self._handle.mix = Mix({}, {})
            job[0]()
            self._dial()
        self._admit()
        if self._written:
            self._make_way()
            self._step()

    def _end(self) -> None:
        """Tell everybody who still waits."""
        stopped = StoppedError("the server is stopping.")
        with self._changed:
            self._closing = True
            self._written += self._waiting
            self._waiting.clear()
            jobs = [future for _, future in self._jobs]
            self._jobs.clear()
        self._drop_all(stopped)
        for future in jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopped)

    def _admit(self) -> None:
        """Let those in who have a place, in the order in which they came; read their prompts."""
        new: list[Written] = []
        with self._changed:
            gone = [row for row in self._waiting if row.cancelled or row.late]
            self._waiting = deque(row for row in self._waiting if row not in gone)
            while self._waiting and self._has_place([*self._written, *new], self._waiting[0]):
                reading = [*new, self._waiting[0]]
                if new and len(reading) * max(len(row.ids) for row in reading) > _READ_AT_ONCE:
                    break
                new.append(self._waiting.popleft())
        for row in gone:
            row.expire()
        if new:
            self._handle.mix = Mix({}, {})
            self._written += new  # before the work, so that they are told if it fails
            self._rows.join([row.ids for row in new])
            self._dial()

    def _has_place(self, rows: Sequence[Written], row: Written) -> bool:
        """Whether the keys and values of all of them, padded to the longest, are within the limits, and some more."""
        longest = max(len(each.ids) for each in [*rows, row]) + SPARE
        return len(rows) < self._most and (not rows or (len(rows) + 1) * longest <= self.limits.tokens)

    def _make_way(self) -> None:
        """Send the rows that came last back to wait, as far as they are, when all together have grown too long."""
        while len(self._written) * (max(len(row.ids) for row in self._written) + 1) > self.limits.tokens:
            last = max(range(len(self._written)), key=lambda i: self._written[i].number)
            with self._changed:
                self._waiting.appendleft(self._written[last])
            self._leave(last)
            self._dial()

    def _step(self) -> None:
        """A token more for every row."""
        calls = self._handle.calls
        logits = self._rows.step([row.ids[-1] for row in self._written])
        self._drop_broken(logits)
        steered = self._handle.calls > calls
        self.steps += 1
        tops = {i: row.order.top for i, row in enumerate(self._written) if row.order.top is not None}
        log_p = dict(zip(tops, torch.log_softmax(logits[[*tops]].float(), -1), strict=True)) if tops else {}
        drawn = self._draw(logits)
        ended = []
        for i, (row, token) in enumerate(zip(self._written, drawn, strict=True)):
            chosen: Chosen | None = chosen_of(log_p[i], token, tops[i] or 0) if i in tops else None
            if row.cancelled or not row.take(token, steered and any(row.order.strengths.values()), chosen):
                ended.append(i)
        for i in reversed(ended):
            self._leave(i)
        if ended:
            self._dial()

    def _drop_broken(self, logits: Tensor) -> None:
        """Rows whose strengths have led out of the numbers that there are end, and the others do not notice."""
        for i in (~logits.amax(-1).isfinite()).nonzero().flatten().tolist():
            if not self._written[i].cancelled:
                self._written[i].fail(SteerError("the logits are no finite numbers any more: turn the dial down."))
                self._written[i].cancel()
        logits.nan_to_num_()

    def _draw(self, logits: Tensor) -> list[int]:
        """A token a row; rows that draw alike draw together."""
        drawn = [0] * len(self._written)
        for sampling in {row.order.sampling for row in self._written}:
            places = [i for i, row in enumerate(self._written) if row.order.sampling == sampling]
            u = torch.stack([self._written[i].u for i in places])
            for i, token in zip(places, draw(logits[places], u, sampling).tolist(), strict=True):
                drawn[i] = token
        return drawn

    def _dial(self) -> None:
        """Set each row's strengths; a steer that a row did not ask for has strength 0 there, which adds an exact 0."""
        # By the steers themselves: one may have been fitted anew under its name.
        rows = [
            {str(id(steer)): row.order.strengths[name] for name, steer in row.order.steers.items()}
            for row in self._written
        ]
        steers = {str(id(steer)): steer for row in self._written for steer in row.order.steers.values()}
        self._handle.mix = Mix(steers, {key: [row.get(key, 0.0) for row in rows] for key in steers})

    def _leave(self, place: int) -> None:
        """The last row takes the place, here as in the batch."""
        self._rows.leave(place)
        last = self._written.pop()
        if place < len(self._written):
            self._written[place] = last

    def _drop_all(self, why: LMSteerError) -> None:
        """Begin anew with no rows."""
        for row in self._written:
            row.fail(why)
        self._written.clear()
        self._rows = type(self._rows)(self.lm)  # type: ignore[call-arg]
        give_back()


def _at(place: int, tell: Callable[[int, Piece], None]) -> Callable[[Piece], None]:
    return lambda piece: tell(place, piece)
