"""Prompts are read in pieces, between which the others go on."""

from threading import Event

from asking import answers
from lmsteer.errors import LMSteerError
from lmsteer.serving.engine import batch as batch_module
from lmsteer.serving.engine.requests import Request


def test_others_are_served_while_a_long_prompt_is_read(endless, engines):
    engine = engines(endless)
    engine._work._batch._piece = 4
    begun, read, told = Event(), Event(), []

    def tell_first(_, piece):
        told.append("first")
        begun.set()

    def tell_second(_, piece):
        told.append("second")
        read.set()

    first, *_ = engine.submit([Request([5, 6], max_new_tokens=5_000)], tell_first)
    begun.wait(30)
    told.clear()
    ids = [5 + k % 90 for k in range(80)]
    engine.submit([Request(ids, max_new_tokens=3)], tell_second)
    assert read.wait(30)
    first.cancel()
    # Twenty pieces, with a token for the first row after each but the last, in which both have one.
    assert told.index("second") >= 19


def test_a_prompt_that_nobody_waits_for_is_read_no_further(endless, engines, monkeypatch):
    engine = engines(endless)
    batch = engine._work._batch
    batch._piece = 1
    pieces, begun, go_on = [], Event(), Event()
    piece = batch_module.prefill

    def counted(*given):
        pieces.append(1)
        begun.set()
        go_on.wait(30)
        return piece(*given)

    monkeypatch.setattr(batch_module, "prefill", counted)
    row, *_ = engine.submit([Request([5] * 50, max_new_tokens=3)], lambda *_: None)
    assert begun.wait(30)
    row.cancel()
    go_on.set()
    while engine._work.reading:
        pass
    assert len(pieces) <= 2
    monkeypatch.undo()
    (after,) = answers(engine, [Request([5, 6, 7], max_new_tokens=3)])
    assert after.tokens == 3


def test_a_prompt_that_cannot_be_read_in_time_is_refused_for_good(endless, engines):
    engine = engines(endless)
    engine._work._batch._piece = 1
    told, done = [], Event()
    engine.submit(
        [Request([5] * 20_000, max_new_tokens=3, seconds=0.5)], lambda _, piece: (told.append(piece), done.set())
    )
    assert done.wait(30)
    assert type(told[0].error) is LMSteerError
    assert "before the prompt was read" in str(told[0].error)
    assert (len(told), engine.running) == (1, 0)
