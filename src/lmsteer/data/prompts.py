"""Prompts: plain lines, or JSONL in the published format ``{"prompt": {"text": ..}}`` or a shorter one.

The shorter formats are ``{"prompt": ..}`` and ``{"text": ..}``. A line that starts with ``{`` is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lmsteer.data.table_rows import read_text
from lmsteer.errors import DataError


def read_prompts(file: str | Path) -> list[str]:
    """Read prompts from a file, one per line; blank lines are skipped.

    Args:
        file: the file, which may be gzipped, or ``-`` for standard input.

    Raises:
        DataError: the file cannot be read, holds no prompts, or has a JSON line without a prompt.
    """
    text = _standard_input() if str(file) == "-" else read_text(Path(file))
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{file} holds no prompts.")
    return [_prompt(line, f"{file}, line {number}") for number, line in lines]


def check_not_empty(texts: Sequence[str]) -> None:
    """Refuse empty texts, which there is nothing to read in.

    Raises:
        DataError: a text is empty.
    """
    if empty := [number for number, text in enumerate(texts, 1) if not text]:
        raise DataError(f"text {empty[0]} is empty.")


def _standard_input() -> str:
    if sys.stdin is None:
        raise DataError("standard input is closed: give a file.")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error}.") from error
    except OSError as error:
        raise DataError(f"cannot read standard input: {error}.") from error


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
