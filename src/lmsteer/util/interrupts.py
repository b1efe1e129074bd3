"""Ctrl-C between steps: what a step has begun it ends, so that what is kept is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_sigint() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back; gives a function, to be called between steps, that lets it through."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals reach the main thread alone
        return
    pressed = False

    def press(_: int, __: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, former)
