"""Prompts and texts: plain lines, or a data file.

A row of a data file has a column ``prompt`` or ``text``, or the ``messages`` of a chat. A prompt may also be an object
with the key ``text`` or ``messages``, as in published files and in those that ``generate`` writes. Among plain lines,
one that starts with ``{`` is such a row in JSON; a file that begins with ``[{`` is an array of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from lmsteer.data.cells import TableRow, cell, has_column
from lmsteer.data.chats import Chat, Prompt, read_value
from lmsteer.data.json_rows import json_rows, json_value
from lmsteer.data.row_formats import unlabelled
from lmsteer.data.table_rows import is_table, read_rows
from lmsteer.data.text_files import lines_of, read_standard_input, read_text
from lmsteer.errors import DataError

T = TypeVar("T")
# How an array of objects begins, which is no line of text.
_ARRAY = re.compile(r"\s*\[\s*\{")


def read_prompts(file: str | Path) -> list[Prompt]:
    """Read prompts from a file; blank lines are skipped.

    Args:
        file: a data file, a file of lines, which may be packed as well, or ``-`` for lines on standard input.

    Raises:
        DataError: the file cannot be read, holds no prompts, or has a row without a prompt.
    """
    return _read(file, str, _prompt)


def read_texts(file: str | Path) -> list[str]:
    """Read texts from a file, as ``read_prompts`` reads prompts, for what reads no chats.

    Raises:
        DataError: as ``read_prompts``, or a row is a chat.
    """
    return _read(file, str, _text)


def read_answers(file: str | Path) -> list[tuple[Prompt | None, str]]:
    """Read texts from a file as ``read_texts`` does, each with its prompt if it has one.

    A row may have a ``prompt`` and a ``completion``, or ``messages``, of which the last, the assistant's, is the text.

    Raises:
        DataError: as ``read_prompts``, or a row has no text.
    """
    return _read(file, lambda line: (None, line), _answer)


def check_not_empty(texts: Sequence[str]) -> None:
    """Refuse empty texts, which there is nothing to read in.

    Raises:
        DataError: a text is empty.
    """
    if empty := [number for number, text in enumerate(texts, 1) if not text]:
        raise DataError(f"text {empty[0]} is empty.")


def _read(file: str | Path, of_line: Callable[[str], T], of_row: Callable[[str, TableRow], T]) -> list[T]:
    if str(file) != "-" and is_table(Path(file)):
        found = [of_row(place, row) for place, row in read_rows(file)]
    else:
        name, text = (
            ("standard input", read_standard_input()) if str(file) == "-" else (str(file), read_text(Path(file)))
        )
        found = list(_of_lines(name, text, of_line, of_row))
    if not found:
        raise DataError(f"{file} holds no prompts.")
    return found


def _of_lines(name: str, text: str, of_line: Callable[[str], T], of_row: Callable[[str, TableRow], T]) -> Iterator[T]:
    if _ARRAY.match(text):
        yield from (of_row(place, row) for place, row in json_rows(name, text))
        return
    for number, line in enumerate(lines_of(text), 1):
        line, place = line.lstrip("\ufeff"), f"{name}, line {number}"  # files that were joined have marks within
        if line.strip():
            yield of_row(place, json_value(place, line)) if line.lstrip().startswith("{") else of_line(line)


def _prompt(place: str, row: TableRow) -> Prompt:
    if has_column(place, row, "messages"):
        if has_column(place, row, "prompt") or has_column(place, row, "text"):
            raise DataError(f"{place}: there are messages and another prompt; remove one of them.")
        return _cell_prompt(place, "messages", cell(place, row, "messages"))
    return _cell_prompt(place, "prompt", cell(place, row, "prompt", "text"))


def _cell_prompt(place: str, column: str, value: object) -> Prompt:
    if isinstance(value, dict):
        value = value.get("text", value.get("messages", value))
    prompt = read_value(place, column, value)
    if isinstance(prompt, Chat) and prompt.is_of_assistant:
        raise DataError(f"{place}: the last message is the assistant's already; a prompt ends before its answer.")
    return prompt


def _text(place: str, row: TableRow) -> str:
    prompt = _prompt(place, row)
    if isinstance(prompt, Chat):
        raise DataError(f"{place}: there are the messages of a chat, but only plain texts can be read here.")
    return prompt


def _answer(place: str, row: TableRow) -> tuple[Prompt | None, str]:
    for column in ("completion", "messages"):
        if has_column(place, row, column):
            example = unlabelled(place, row, column)
            return example.prompt, example.text
    return None, _text(place, row)
