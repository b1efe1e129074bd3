"""The part of the disk cache for LoRA adapters that were written for vLLM: one folder for each mix at its strengths."""

from __future__ import annotations

from pathlib import Path

from lmsteer.util.disk_cache import CacheKind, cache_dir, register

ADAPTERS = register(CacheKind("adapters", "adapters/*", "adapter_config.json", lambda folder: folder.name))


def adapters_folder() -> Path:
    """The folder that holds all adapters."""
    return cache_dir() / "adapters"
