"""The files of a bulk run: ``OUT``, and ``OUT.partial`` until it is complete. This module does not import torch."""

from __future__ import annotations

from pathlib import Path

from lmsteer.errors import DataError


def partial_of(out: Path) -> Path:
    """The file that grows until the run is complete."""
    return out.with_name(f"{out.name}.partial")


def check_bulk_target(out: Path, *, resume: bool) -> None:
    """Refuse a file that a bulk run cannot be written to.

    Raises:
        DataError: it is a folder, there is nothing to resume, or an interrupted run is there and is not resumed.
    """
    partial = partial_of(out)
    if out.is_dir():
        raise DataError(f"{out} is a folder: name a file.")
    if resume and not partial.exists():
        raise DataError(f"nothing to resume: there is no {partial}.")
    if not resume and partial.exists():
        raise DataError(f"{partial} holds the output of an interrupted run: continue it with --resume, or remove it.")
