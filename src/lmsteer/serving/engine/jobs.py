"""Jobs: other work on the model (reading a text, say), one after the other in a thread of their own.

A job and the decoding steps take turns: each forward pass of either has the model for itself, in the order of asking
(``LM.exclusive_use``). So a running sequence waits for one pass of a job at most, and not for the whole of it; a job
that reads a long text divides it into passes of a prefill chunk each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, TypeVar

import torch

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.isolation import as_step_error

T = TypeVar("T")


class BusyError(LMSteerError):
    """The queue is full, or no place became free in time; the same request may succeed later."""


class StoppedError(LMSteerError):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("the server is stopping.")


class Jobs:
    """A queue of jobs, and the thread that runs them.

    Args:
        max_waiting: maximum number of jobs that wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting = deque[tuple[Callable[[], None], Future[Any]]]()
        self._changed = Condition()
        self._closing = False
        self._thread = Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job. It takes the model for itself where it uses it, as ``lm.hidden_states`` does.

        Raises:
            BusyError: too many jobs are waiting.
            StoppedError: the queue is closed.
        """
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # which the caller gets from the future
                    future.set_exception(error if isinstance(error, Exception) else as_step_error(error))

        with self._changed:
            if self._closing:
                raise StoppedError
            self._waiting = deque(each for each in self._waiting if not each[1].cancelled())
            if (waiting := len(self._waiting)) >= self.max_waiting:
                raise BusyError(f"{waiting} texts are waiting to be read already.")
            self._waiting.append((run, future))
            self._changed.notify()
        return future

    def refuse(self) -> None:
        """Refuse new jobs, and end those that wait with ``StoppedError``."""
        with self._changed:
            self._closing = True
            waiting = [future for _, future in self._waiting]
            self._waiting.clear()
            self._changed.notify()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(StoppedError())

    def close(self) -> None:
        """Refuse jobs as ``refuse`` does, and wait for the one that runs."""
        self.refuse()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                run, _ = self._waiting.popleft()
            run()
            del run  # and the text with it, before the next one comes
