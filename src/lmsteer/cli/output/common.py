"""What all commands print with."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape

from lmsteer.util.files import finite


def as_json(value: Any) -> None:
    """Print one JSON object; what is no finite number is null."""
    print(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def signed(strength: float) -> str:
    """A strength with its sign; 0 has none."""
    return f"{strength:+g}" if strength else "0"


def plain(text: str) -> str:
    """A text on one line, none of it taken for markup."""
    return escape(" ".join(text.split()))
