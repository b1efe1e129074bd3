"""Jobs: a queue of limited length, in which cancelled jobs take no place."""

from __future__ import annotations

from threading import Event

import pytest

from lmsteer.serving.engine.jobs import BusyError, Jobs, StoppedError


def test_cancelled_jobs_take_no_place_and_no_memory():
    jobs, entered, go = Jobs(2), Event(), Event()
    running = jobs.submit(lambda: (entered.set(), go.wait(30)))
    assert entered.wait(30)
    for _ in range(50):
        jobs.submit(lambda: 1).cancel()
    assert len(jobs._waiting) <= 2
    waiting = [jobs.submit(lambda k=k: k) for k in range(2)]
    with pytest.raises(BusyError, match="2 texts are waiting"):
        jobs.submit(lambda: 3)
    go.set()
    assert [each.result(30) for each in waiting] == [0, 1]
    assert running.result(30)
    jobs.close()
    with pytest.raises(StoppedError, match="the server is stopping"):
        jobs.submit(lambda: 4)
