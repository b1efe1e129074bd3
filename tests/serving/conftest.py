import pytest

from lmsteer.serving.engine.engine import Engine, EngineConfig
from tiny import tiny_lm


@pytest.fixture(scope="session")
def endless():
    """A model whose texts do not end by themselves."""
    lm = tiny_lm("llama")
    lm.model.generation_config.eos_token_id = None
    return lm


@pytest.fixture
def engines():
    """Makes engines, and closes them."""
    made = []

    def make(lm, **limits):
        made.append(Engine(lm, EngineConfig(**limits)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
