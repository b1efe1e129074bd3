import time
from threading import Event

import pytest

from lmsteer.serving.engine.engine import Engine, EngineConfig
from lmsteer.serving.engine.requests import Request
from tiny import tiny_lm


@pytest.fixture(scope="session")
def endless():
    """A model without an end-of-text token."""
    lm = tiny_lm("llama")
    lm.model.generation_config.eos_token_id = None
    return lm


@pytest.fixture
def engines():
    """Makes engines with given limits, and closes them."""
    made = []

    def make(lm, *, clock=time.monotonic, **limits):
        made.append(Engine(lm, EngineConfig(**limits), clock=clock))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def chunks_before(endless, engines):
    """Counts the chunks that a running sequence sends before the first chunk of a request.

    The request's prompt is read four tokens at a time.
    """

    def count(request):
        engine = engines(endless, prefill_chunk=4)
        started, done, order = Event(), Event(), []

        def on_first(_, chunk):
            order.append("first")
            started.set()

        def on_second(_, chunk):
            order.append("second")
            done.set()

        first, *_ = engine.submit([Request([5, 6], max_new_tokens=5_000)], on_first)
        assert started.wait(30)
        order.clear()
        engine.submit([request], on_second)
        assert done.wait(30)
        first.cancel()
        return order.index("second")

    return count
