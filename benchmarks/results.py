"""Figures kept in a JSON file, by key, as they are measured."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import typer
from filelock import FileLock

from lmsteer.util.files import write_file

# Locks lie there: several benchmarks may write to one file.
_WORK = Path(__file__).parent / "results" / "work"
# The pictures of README and docs.
PICTURES = Path(__file__).parent.parent / "docs" / "figures"


def check_known(given: Collection[object] | None, known: Collection[object]) -> None:
    """Refuse to measure what there is not."""
    if unknown := [each for each in given or () if each not in known]:
        raise typer.BadParameter(f"no {', '.join(map(str, unknown))}: there are {', '.join(map(str, known))}.")


def kept(file: Path) -> dict[str, Any]:
    """What a file of figures holds; nothing if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def keep(file: Path, key: str, value: Any) -> None:
    """Keep a figure beside the others of a file, and print it."""
    _WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(_WORK / f"{file.name}.lock"):
        rewrite(file, {**kept(file), key: value})
    print(key, json.dumps(value, ensure_ascii=False)[:2000], flush=True)


def rewrite(file: Path, figures: dict[str, Any]) -> None:
    """Keep these figures and no others."""
    write_file(file, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
