"""Ctrl-C between steps: a step that has begun is completed first, so that the files on the disk are whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_sigint() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C (SIGINT) back within a ``with`` block.

    Yields:
        A function to call between steps: it raises ``KeyboardInterrupt`` if Ctrl-C was pressed. Outside the main
        thread, which no signal reaches, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
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
