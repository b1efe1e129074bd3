"""Where LoRA adapters lie that were written for vLLM: a folder for each mix and its strengths, in the disk cache."""

from __future__ import annotations

from pathlib import Path

from lmsteer.util.disk_cache import CacheKind, cache_dir, register

ADAPTERS = register(CacheKind("adapters", "adapters/*", "adapter_config.json", lambda folder: folder.name))


def adapters_folder() -> Path:
    """The folder of all of them."""
    return cache_dir() / "adapters"
