"""Prompts, in the published formats.

Prompts come as plain lines or as JSONL: ``{"prompt": {"text": ..}}`` (published), ``{"prompt": ..}`` or
``{"text": ..}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lmsteer.data.labelled import text_of
from lmsteer.errors import DataError


def read_prompts(file: str | Path) -> list[str]:
    """Read prompts from a file, or from standard input for ``-``.

    Raises:
        DataError: the file cannot be read, holds no prompts, or a JSON line without one.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else text_of(Path(file))
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error}.") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{file} holds no prompts.")
    return [_prompt(line, f"{file}, line {number}") for number, line in lines]


def _prompt(line: str, place: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.rstrip("\r")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}.") from error
    match row:
        case {"prompt": {"text": str(text)}} | {"prompt": str(text)} | {"text": str(text)}:
            return text
    raise DataError(f'{place}: no prompt; write {{"prompt": {{"text": ..}}}} or a plain line.')
