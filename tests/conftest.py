"""What tests share: tiny models, the real default model, real data where there is some."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from lmsteer.model.lm import LM, load
from tiny import tiny_lm
from tiny_gguf import write_gguf

SHARED = Path(__file__).parents[2] / "shared" / "data"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def make_lm() -> Callable[[str], LM]:
    """Tiny models by family, each made once."""
    return lru_cache(tiny_lm)


@pytest.fixture(scope="session")
def llama(make_lm: Callable[[str], LM]) -> LM:
    """The tiny Llama."""
    return make_lm("llama")


@pytest.fixture(scope="session")
def smollm2() -> LM:
    """The real default model."""
    return load()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, where there is one."""
    if not SHARED.exists():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a GGUF file."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, empty."""
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
