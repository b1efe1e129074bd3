"""Where Fisher factors lie in the disk cache: one file for each model. This module does not import torch."""

from __future__ import annotations

from lmsteer.util.disk_cache import CacheKind, register

FISHER = register(CacheKind("fisher", "fisher-*.safetensors"))
