"""Steers on disk: a folder of ``steer.safetensors`` (the factors) and ``steer.json`` (the card and the shapes).

Nothing is unpickled when a steer is loaded.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmsteer.steer.hub import located
from lmsteer.steer.lookup import STEER, find_folder, record_in
from lmsteer.steer.steer import Steer


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
    """Read a steer from its folder, or from the Hub by an id (``org/name``, ``hf://org/name@revision``).

    Raises:
        SteerError: there is no steer in the folder, it is damaged, or it cannot be fetched.
    """
    place = located(folder)
    with STEER.reading(place) as (content, factors):
        record = record_in(place, content)
        return Steer(record.form, factors, record.hidden_size, record.vocabulary, record.card)


def find_steer(name: str | Path) -> Steer:
    """Read a steer by folder, name or Hub id, as ``lmsteer.steer.lookup.find_folder`` finds it.

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
        "sites": list(steer.sites),
        "card": asdict(steer.card),
    }
