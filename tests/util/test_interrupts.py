"""Ctrl-C waits for the end of a step."""

from __future__ import annotations

import signal

import pytest

from lmsteer.util.interrupts import deferred_sigint


def test_a_step_that_has_begun_ends():
    ended = []

    def work() -> None:
        with deferred_sigint() as check:
            for step in range(3):
                if step == 1:
                    signal.raise_signal(signal.SIGINT)
                ended.append(step)
                check()

    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert ended == [0, 1]
    assert signal.getsignal(signal.SIGINT) is former
