"""Steers on disk: a folder of ``steer.safetensors`` (the factors) and ``steer.json`` (the card and the shapes).

Nothing is unpickled when a steer is loaded.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmsteer.steer.lookup import STEER, SteerRecord, find_folder
from lmsteer.steer.steer import Steer
from lmsteer.util.records import from_record


def save_steer(steer: Steer, folder: str | Path) -> Path:
    """Write a steer; an older one in the same folder stays until the new one is complete.

    Raises:
        SteerError: the folder holds something else.
        OutputError: the disk cannot be written.
    """
    folder = Path(folder)
    STEER.save(folder, _to_json(steer), steer.factors)
    return folder


def load_steer(folder: str | Path) -> Steer:
    """Read a steer from its folder.

    Raises:
        SteerError: there is no steer in the folder, or it is damaged.
    """
    with STEER.reading(Path(folder)) as (content, factors):
        record = from_record(SteerRecord, content)
        return Steer(record.form, factors, record.hidden_size, record.vocabulary, record.card)


def find_steer(name: str | Path) -> Steer:
    """Read a steer by folder or name, as ``lmsteer.steer.lookup.find_folder`` finds it.

    Raises:
        SteerError: there is no such steer, or it is damaged.
    """
    return load_steer(find_folder(name))


def _to_json(steer: Steer) -> dict[str, Any]:
    return {
        "form": steer.form,
        "hidden_size": steer.hidden_size,
        "vocabulary": steer.vocabulary,
        "rank": steer.rank,
        "card": asdict(steer.card),
    }
