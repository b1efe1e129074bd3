import time

import pytest

from lmsteer.serving.engine.engine import Engine, EngineConfig
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
