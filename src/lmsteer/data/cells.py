"""Cells of a row: columns are found by name, and a text is a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmsteer.errors import DataError
from lmsteer.util.escapes import has_half_character

TableRow = Mapping[str, Any]


@dataclass(frozen=True)
class ClassName:
    """A label that a file stores as the number of a class, and names elsewhere.

    Attributes:
        name: the name of the class.
        number: its number.
    """

    name: str
    number: int


def name_classes(row: TableRow, classes: Mapping[str, Sequence[str]]) -> TableRow:
    """A row with names in place of the numbers of classes.

    Args:
        row: the row.
        classes: names of the classes of each column that holds numbers of classes; -1 is no class.
    """
    named = {}
    for column, names in classes.items():
        number = row.get(column)
        if isinstance(number, int) and -1 <= number < len(names):
            named[column] = ClassName(names[number], number) if number >= 0 else None
    return {**row, **named}


def check_columns(place: str, columns: Sequence[str]) -> None:
    """Refuse columns of which two have the same name.

    Raises:
        DataError: there are some.
    """
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{place}: two columns are named {', '.join(map(repr, twice))}; rename or remove one of them.")


def has_column(place: str, row: TableRow, column: str) -> bool:
    """Whether a row has a column of this name, in any case.

    Raises:
        DataError: two columns have the name.
    """
    return _find(place, tuple(row), column) is not None


def cell(place: str, row: TableRow, *columns: str, advice: str = "") -> Any:
    """The value of the first of some columns that the row has; names may be written in another case.

    Args:
        place: where the row stands.
        row: the row.
        columns: names of columns.
        advice: what to do if there is none of them.

    Raises:
        DataError: there is no such column, or two.
    """
    for column in columns:
        if (found := _find(place, tuple(row), column)) is not None:
            return row[found]
    wanted, there = " or ".join(map(repr, columns)), ", ".join(map(repr, row)) or "none"
    raise DataError(
        f"{place}: no column {wanted}; the columns are {there}. {advice}The first line of a CSV file names its columns."
    )


def text_value(place: str, column: str, value: Any) -> str:
    """A value that must be a text.

    Raises:
        DataError: it is something else, or no valid Unicode.
    """
    if value is None:
        raise DataError(f"{place}: the {column} is missing (null); fill it in, or remove the row.")
    if not isinstance(value, str):
        raise DataError(f"{place}: the {column} is {type(value).__name__}, not a string; write texts between quotes.")
    if has_half_character(value):
        raise DataError(f"{place}: the {column} holds half of a surrogate pair, which is not valid Unicode.")
    return value


def _find(place: str, columns: tuple[str, ...], name: str) -> str | None:
    found = _same_name(columns, name)
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        raise DataError(f"{place}: the columns {names} both read {name!r}; rename or remove one of them.")
    return found[0] if found else None


@lru_cache(maxsize=64)
def _same_name(columns: tuple[str, ...], name: str) -> list[str]:
    wanted = name.strip().casefold()
    return [column for column in columns if column.strip().casefold() == wanted]
