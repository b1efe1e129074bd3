"""Prompts: plain lines, or a data file with a column ``prompt`` or ``text``.

In a data file a prompt may also be an object with the key ``text``, as published. Among plain lines, one that starts
with ``{`` is such a row in JSON; a file that begins with ``[{`` is an array of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmsteer.data.cells import TableRow, cell, text_value
from lmsteer.data.json_rows import json_rows, json_value
from lmsteer.data.table_rows import is_table, read_rows
from lmsteer.data.text_files import lines_of, read_standard_input, read_text
from lmsteer.errors import DataError

# How an array of objects begins, which is no line of text.
_ARRAY = re.compile(r"\s*\[\s*\{")


def read_prompts(file: str | Path) -> list[str]:
    """Read prompts from a file; blank lines are skipped.

    Args:
        file: a data file, a file of lines, which may be packed as well, or ``-`` for lines on standard input.

    Raises:
        DataError: the file cannot be read, holds no prompts, or has a row without a prompt.
    """
    if str(file) != "-" and is_table(Path(file)):
        prompts = [_prompt(place, row) for place, row in read_rows(file)]
    else:
        name, text = (
            ("standard input", read_standard_input()) if str(file) == "-" else (str(file), read_text(Path(file)))
        )
        prompts = list(_plain_prompts(name, text))
    if not prompts:
        raise DataError(f"{file} holds no prompts.")
    return prompts


def check_not_empty(texts: Sequence[str]) -> None:
    """Refuse empty texts, which there is nothing to read in.

    Raises:
        DataError: a text is empty.
    """
    if empty := [number for number, text in enumerate(texts, 1) if not text]:
        raise DataError(f"text {empty[0]} is empty.")


def _plain_prompts(name: str, text: str) -> Iterator[str]:
    if _ARRAY.match(text):
        yield from (_prompt(place, row) for place, row in json_rows(name, text))
        return
    for number, line in enumerate(lines_of(text), 1):
        line, place = line.lstrip("\ufeff"), f"{name}, line {number}"  # files that were joined have marks within
        if line.strip():
            yield _prompt(place, json_value(place, line)) if line.lstrip().startswith("{") else line


def _prompt(place: str, row: TableRow) -> str:
    value = cell(place, row, "prompt", "text")
    return text_value(place, "prompt", value.get("text", value) if isinstance(value, dict) else value)
