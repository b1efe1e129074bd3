"""Rows of CSV and TSV files, and of files with semicolons or bars in place of commas.

The header tells the separator. A row that may have been meant otherwise than it reads is refused: quotes that are
written as other dialects write them, and fields that no column of the header takes.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from lmsteer.data.cells import TableRow, check_columns
from lmsteer.data.text_files import lines_of
from lmsteer.errors import DataError

_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
# Spreadsheets write and read a first line that names the separator.
_SEPARATOR_LINE = re.compile(r"\s*\"?sep=(.)\"?[ \t]*(?=[\r\n])", re.IGNORECASE)
# A field that is quoted after a space, or within which a quote is written as in program code.
_OTHER_QUOTES = re.compile(r'\s+".*"\s*|.*\\".*', re.DOTALL)


@dataclass(frozen=True)
class _Record:
    """One record as it stands in the file.

    Attributes:
        line: the number of its first line.
        lines: its lines.
        fields: its fields.
    """

    line: int
    lines: list[str]
    fields: list[str]


def csv_rows(path: str, content: str, separator: str) -> Iterator[tuple[str, TableRow]]:
    """The rows of a file, each with its place.

    Args:
        path: the name of the file.
        content: its text.
        separator: what separates fields, unless the header does without it and shows another one.

    Raises:
        DataError: the file is not CSV, or a row does not fit the header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))  # a limit of the module: it may be raised
    if named := _SEPARATOR_LINE.match(content):
        content, separator = content[named.end() :], named[1]
        lines_before = named[0].count("\n")
    else:
        separator, lines_before = _separator(path, content, separator), 0
    records = _records(path, content, separator, lines_before)
    header = next(records, None)
    if header is None:
        return
    names = [name.strip() for name in header.fields]
    check_columns(f"{path}, line {header.line}", [name for name in names if name])
    for record in records:
        place = f"{path}, line {record.line}"
        _check(place, record, len(names), separator)
        for number, (name, field) in enumerate(zip(names, record.fields, strict=True), 1):
            if not name and field.strip() and number > 1:  # the first one may number the rows
                raise DataError(
                    f"{place}: {field!r} stands in column {number}, which has no name; name the column, or quote the "
                    f"text if it holds {_name(separator)}."
                )
        yield place, {name: field for name, field in zip(names, record.fields, strict=True) if name}


def _check(place: str, record: _Record, columns: int, separator: str) -> None:
    """Refuse a record that does not fit the header, or whose quotes may mean something else."""
    if len(record.fields) != columns:
        held = _name(separator) if len(record.fields) > columns else "a line break"
        raise DataError(
            f"{place}: {len(record.fields)} fields, but the header has {columns}; quote the text if it holds {held}."
        )
    source = "".join(record.lines)
    for field in record.fields:
        unquoted = '"' in field and field.replace('"', '""') not in source
        if unquoted and _OTHER_QUOTES.fullmatch(field):
            raise DataError(
                f"{place}: {field[:60]!r} holds quotes that are not CSV's; write the whole field between quotes, "
                "without a space before them, and each quote within it twice."
            )
    if separator == "\t" and len(record.lines) > 1 and all(_tabs(line) == columns - 1 for line in record.lines):
        raise DataError(
            f"{place}: a quote opens here and closes {len(record.lines) - 1} lines below, but each of these lines is a "
            "whole row; write every quote twice within a quoted field, or save the file as JSONL."
        )


def _separator(path: str, content: str, usual: str) -> str:
    """The separator that the header shows: the usual one if it stands there, else the only other one that does."""
    shown = [each for each in _SEPARATORS if len(_header(content, each)) > 1]
    if usual in shown or not shown:
        return usual
    if len(shown) > 1:
        raise DataError(
            f"{path}: the header may be separated by {' or '.join(map(_name, shown))}; separate it by {_name(usual)}."
        )
    return shown[0]


def _header(content: str, separator: str) -> list[str]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    return next((fields for fields in reader if any(field.strip() for field in fields)), [])


def _records(path: str, content: str, separator: str, lines_before: int) -> Iterator[_Record]:
    """The records of a file in which something stands."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(content, newline=""):
            taken.append(line)
            yield line

    unquoted = separator == "\t" and _quotes_are_letters(content)
    reader = csv.reader(
        lines(),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
        skipinitialspace=_is_spaced(_header(content, separator)),
        strict=True,
    )
    while True:
        line = lines_before + reader.line_num + 1
        taken.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: not CSV: {error}, in the row that begins here; a field that begins with a quote "
                "must end with one, and each quote within it is written twice."
            ) from error
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield _Record(line, list(taken), fields)


def _is_spaced(header: list[str]) -> bool:
    """Whether a space after each separator belongs to the separator, and not to the fields."""
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def _quotes_are_letters(content: str) -> bool:
    """Whether a file with tabs knows no quoting: each line is a row, and quotes in it cannot be read as CSV's.

    Many such files are written without quoting, and some of their texts begin with a quote.
    """
    rows = [line.split("\t") for line in lines_of(content) if line.strip()]
    quoted = (field for row in rows for field in row if len(field) > 1 and field[0] == field[-1] == '"')
    if len({len(row) for row in rows}) != 1 or any(quoted):
        return False
    try:
        deque(csv.reader(io.StringIO(content, newline=""), delimiter="\t", strict=True), maxlen=0)
    except csv.Error:
        return True
    return False


def _tabs(line: str) -> int:
    return line.count("\t")


def _name(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))
