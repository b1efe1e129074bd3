"""Markdown tables, and where results lie."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ASSETS = ROOT / "src" / "lmsteer" / "assets"
# The blank between a number and its unit, at which no line should break.
UNIT = re.compile(r"(?<=\d) (?=(?:%|x|s|ms|kB|KiB|MB|GB)(?:\W|$))")


def results(name: str) -> Any:
    """The committed results of a benchmark."""
    return read(RESULTS / f"{name}.json")


def read(file: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; every row has a cell for each column of the header.

    Raises:
        ValueError: a row has another number of cells.
    """
    lines = [list(header), ["---"] * len(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(header)} columns: {row}")
        lines.append([UNIT.sub("\u00a0", cell) for cell in row])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(share: float, digits: int = 0) -> str:
    """0.847 as ``85 %``."""
    return f"{100 * share:.{digits}f} %"


def short(value: float, digits: int = 3) -> str:
    """0.847 as ``.847``: for numbers that never exceed 1."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """Milliseconds below one second, seconds above it."""
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def times(ratio: float) -> str:
    """A ratio with two digits that matter: ``1.02 x``, ``2.6 x``, ``16 x``."""
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 10 else 0}f} x"
