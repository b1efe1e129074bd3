"""Instruction data: rows with the columns ``instruction``, ``input`` and ``output``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmsteer.data.cells import TableRow, cell, has_column, text_value
from lmsteer.data.table_rows import read_rows
from lmsteer.errors import DataError


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
    """Read instruction data from a data file or a Hub dataset.

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
    given = cell(place, row, "input") if has_column(place, row, "input") else None
    fields = {"input": "" if given is None else text_value(place, "input", given)}
    for column in ("instruction", "output"):
        fields[column] = text_value(place, column, cell(place, row, column))
        if not fields[column].strip():
            raise DataError(f"{place}: the {column} is empty; fill it in, or remove the row.")
    return Instruction(**fields)
