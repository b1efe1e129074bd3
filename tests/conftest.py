"""What tests share: a cache of their own, tiny models, the real default model, real data where there is some."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import hypothesis
import pytest
import torch

from hub_server import HubServer, running_hub
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.hub import fetch
from lmsteer.util.disk_cache import cache_dir
from tiny import tiny_lm
from tiny_gguf import write_gguf

SHARED = Path(__file__).parents[2] / "shared" / "data"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Enough examples to find what is wrong; a test that needs more says so itself. Times vary too much for a deadline.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for this run of the tests, shared by its workers: nothing is written to the developer's own.

    Models and Fisher factors that the developer's cache holds are linked, so that they are not made again.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "lmsteer-cache"
    folder.mkdir(exist_ok=True)
    own = cache_dir()
    for entry in [*own.glob("*/source.json"), *own.glob("fisher-*.safetensors")]:
        source = entry.parent if entry.name == "source.json" else entry
        try:
            (folder / source.name).symlink_to(source)
        except FileExistsError:
            continue  # the other worker was here first
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMSTEER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def make_lm() -> Callable[[str], LM]:
    """Tiny models by family, each made once."""
    return lru_cache(tiny_lm)


@pytest.fixture(scope="session")
def llama(make_lm: Callable[[str], LM]) -> LM:
    """The tiny Llama."""
    return make_lm("llama")


@pytest.fixture(scope="session")
def smollm2(session_cache: Path) -> LM:
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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hub, which huggingface_hub asks in place of the real one, and an empty cache of its own."""
    with running_hub() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        fetch.cache_clear()
        yield server
        fetch.cache_clear()
