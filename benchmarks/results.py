"""Results in a JSON file, by key, as they are measured."""

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


def check_known(names: Collection[object] | None, known: Collection[object]) -> None:
    """Refuse names that do not exist."""
    if unknown := [each for each in names or () if each not in known]:
        raise typer.BadParameter(f"no {', '.join(map(str, unknown))}: there are {', '.join(map(str, known))}.")


def load_results(file: Path) -> dict[str, Any]:
    """The results in a file; none if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def save_result(file: Path, key: str, value: Any) -> None:
    """Save a result beside the others of a file, and print it."""
    _WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(_WORK / f"{file.name}.lock"):
        replace_results(file, {**load_results(file), key: value})
    print(key, json.dumps(value, ensure_ascii=False)[:2000], flush=True)


def replace_results(file: Path, results: dict[str, Any]) -> None:
    """Save these results and no others."""
    write_file(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
