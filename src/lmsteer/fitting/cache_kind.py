"""Where activation caches lie in the disk cache: a folder for each set of texts. This module does not import torch."""

from __future__ import annotations

from pathlib import Path

from lmsteer.util.disk_cache import CacheKind, register
from lmsteer.util.records import parse_json

# The folder of all activation caches, and the file of each that says what it contains.
ACTIVATIONS_FOLDER, ACTIVATION_RECORD = "states", "states.json"


def _describe(folder: Path) -> str:
    try:
        record = parse_json((folder / ACTIVATION_RECORD).read_text(encoding="utf-8"))
        return f"{record['texts']:,} texts, {record['tokens']:,} tokens of {record['base']}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


STATES = register(CacheKind("states", f"{ACTIVATIONS_FOLDER}/*", ACTIVATION_RECORD, _describe))
