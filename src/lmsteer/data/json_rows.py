"""Rows of JSON: an object on each line, an array of objects, or one object of columns as pandas and others write it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lmsteer.data.cells import TableRow, check_columns
from lmsteer.errors import DataError
from lmsteer.util.records import unique_keys

_START = re.compile(r"[^ \t\r\n]")
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)
_EXPECTED = 'an object such as {"text": .., "label": ..}'


def json_rows(path: str, content: str) -> Iterator[tuple[str, TableRow]]:
    """The rows of a file, each with its place.

    Args:
        path: the name of the file.
        content: its text.

    Raises:
        DataError: the file is not JSON, an object has a key twice, or there is something else than rows.
    """
    values = _values(path, content)
    first, second = next(values, None), next(values, None)
    if first is None:
        return
    table = _table(path, first[1]) if second is None else None
    if table is not None:
        for number, row in enumerate(table, 1):
            yield f"{path}, row {number}", _object(f"{path}, row {number}", row)
        return
    yield first[0], _object(*first)
    for place, value in [second] if second else []:
        yield place, _object(place, value)
    for place, value in values:
        yield place, _object(place, value)


def json_line_rows(path: str, lines: Iterable[str]) -> Iterator[tuple[str, TableRow]]:
    """The rows of a file of one object a line, each with its place; blank lines are passed over.

    Args:
        path: the name of the file.
        lines: its lines.

    Raises:
        DataError: a line is not JSON, has a key twice, or is something else than a row.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, _object(place, json_value(place, line))


def json_value(place: str, text: str) -> Any:
    """The one JSON value of a text.

    Raises:
        DataError: it is not JSON, or an object has a key twice.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {_reason(error)}.") from error


def _values(path: str, content: str) -> Iterator[tuple[str, Any]]:
    """The JSON values of a text, one after another, each with the line on which it begins."""
    position, line = 0, 1
    while start := _START.search(content, position):
        line += content.count("\n", position, start.start())
        position = start.start()
        try:
            value, end = _DECODER.raw_decode(content, position)
        except json.JSONDecodeError as error:
            if start[0] != "{":  # within a long array, the line of the error says more
                line = error.lineno
            seen = f" (line {error.lineno}, column {error.colno})"
            raise DataError(f"{path}, line {line}: {_reason(error)}{seen}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: {_reason(error)}.") from error
        yield f"{path}, line {line}", value
        line += content.count("\n", position, end)
        position = end


def _table(path: str, document: Any) -> Sequence[Any] | None:
    """The rows of a document that is a whole table; None if it is a single row."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    data, names = document.get("data"), document.get("columns")
    if isinstance(data, list) and isinstance(names, list):
        return _split(path, names, data)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return data
    columns = list(document.values())
    if columns and all(isinstance(column, list) for column in columns) and not all(map(_is_chat, columns)):
        return _of_columns(path, document, columns)
    if columns and all(isinstance(column, dict) and all(map(str.isdecimal, column)) for column in columns):
        if any(column.keys() != columns[0].keys() for column in columns):
            names = ", ".join(map(repr, document))
            raise DataError(f"{path}: the columns {names} do not have the same rows; write an array of objects.")
        return _of_columns(path, document, [[column[row] for row in columns[0]] for column in columns])
    if columns and all(map(str.isdecimal, document)):
        return columns
    return None


def _is_chat(column: list[Any]) -> bool:
    """Whether a list is a list of messages, which is a cell and no column."""
    return bool(column) and all(isinstance(each, dict) and "role" in each for each in column)


def _of_columns(path: str, names: Any, columns: Sequence[list[Any]]) -> list[dict[str, Any]]:
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{name!r}: {len(column)}" for name, column in zip(names, columns, strict=True))
        raise DataError(f"{path}: one object, whose lists differ in length ({lengths}); write an array of objects.")
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _split(path: str, names: list[Any], data: list[Any]) -> list[dict[str, Any]]:
    names = [str(name) for name in names]
    check_columns(path, names)
    for number, cells in enumerate(data, 1):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise DataError(f"{path}, row {number}: not a list of {len(names)} values, one for each of the columns.")
    return [dict(zip(names, cells, strict=True)) for cells in data]


def _object(place: str, value: Any) -> TableRow:
    if not isinstance(value, dict):
        raise DataError(f"{place}: each row must be {_EXPECTED}, not {type(value).__name__}.")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    return "not JSON that can be read: it is nested too deeply" if isinstance(error, RecursionError) else str(error)
