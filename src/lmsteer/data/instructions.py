"""Instruction data: rows with the columns ``instruction``, ``input`` and ``output``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmsteer.data.table_rows import TableRow, read_rows
from lmsteer.errors import DataError

_COLUMNS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Instruction:
    """A task with one solution.

    Attributes:
        instruction: what is to be done.
        input: what it is to be done with; it may be empty.
        output: the wanted result.
    """

    instruction: str
    input: str
    output: str


def read_instructions(source: str | Path, split: str = "train") -> list[Instruction]:
    """Read instruction data from JSONL, CSV or Parquet, or from a Hub dataset.

    Args:
        source: a file, or a Hub dataset id, with the columns ``instruction``, ``output`` and, optionally, ``input``.
        split: the split of a Hub dataset.

    Raises:
        DataError: it cannot be read or is empty, a column is missing or holds no text, or an instruction or output is
            empty.
    """
    instructions = [_instruction(place, row) for place, row in read_rows(source, split)]
    if not instructions:
        raise DataError(f"{source} holds no instructions.")
    return instructions


def _instruction(place: str, row: TableRow) -> Instruction:
    fields = {column: row.get(column, "" if column == "input" else None) for column in _COLUMNS}
    for column, value in fields.items():
        if not isinstance(value, str) and not (column == "input" and value is None):
            raise DataError(
                f"{place}: no text in the column {column!r}; the columns are {', '.join(map(repr, row)) or 'none'}."
            )
        if column != "input" and not str(value).strip():
            raise DataError(f"{place}: the {column} is empty; fill it in, or remove the row.")
    return Instruction(*(fields[column] or "" for column in _COLUMNS))
