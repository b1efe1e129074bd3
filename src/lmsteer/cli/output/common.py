"""What all commands print with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape

from lmsteer.util.escapes import visible_json
from lmsteer.util.files import finite


def print_json(value: Any) -> None:
    """Print a JSON value; numbers that are not finite become null."""
    print(_json(value, indent=2))


def print_json_lines(values: Iterable[Any]) -> None:
    """Print JSON values, one on each line; numbers that are not finite become null."""
    for value in values:
        print(_json(value))


def signed(strength: float | str) -> str:
    """A strength with its sign; 0 has none, and a notation stays as it is."""
    return strength if isinstance(strength, str) else f"{strength:+g}" if strength else "0"


def strengths_text(strengths: Mapping[str, float]) -> str:
    """Strengths as they are written on the command line: ``sentiment=2 politeness=-1``."""
    return " ".join(f"{name}={strength:g}" for name, strength in strengths.items())


def plain(text: str) -> str:
    """A text on one line, with no part of it taken for markup."""
    return escape(" ".join(text.split()))


def _json(value: Any, indent: int | None = None) -> str:
    return visible_json(json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False))
