"""Instruction data is read, or refused with its line."""

from __future__ import annotations

import json

import pytest

from lmsteer.data.instructions import Instruction, read_instructions
from lmsteer.errors import DataError


def test_instructions_are_read_and_bad_ones_refused(tmp_path):
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "d", "input": None, "output": "e"}]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert read_instructions(file) == [Instruction("a", "b", "c"), Instruction("d", "", "e")]
    for row, message in (
        ({"instruction": " ", "output": "c"}, "line 3: the instruction is empty"),
        ({"instruction": "a", "output": ""}, "line 3: the output is empty"),
        ({"instruction": "a"}, "line 3: no column 'output'; the columns are 'instruction'"),
        ({"instruction": 3, "output": "c"}, "line 3: the instruction is int"),
        ({"instruction": "a", "input": 3, "output": "c"}, "line 3: the input is int"),
        ({"instruction": "a", "output": "\ud800"}, "line 3: the output holds half of a surrogate pair"),
    ):
        file.write_text("\n".join(map(json.dumps, [*rows, row])))
        with pytest.raises(DataError, match=message):
            read_instructions(file)
    (tmp_path / "data.csv").write_text("Instruction,output\na,great, and lovely\n")
    with pytest.raises(DataError, match=r"data.csv, line 2: 3 fields, but the header has 2; quote the text"):
        read_instructions(tmp_path / "data.csv")
    file.write_text(json.dumps(rows[0]))
    assert len(read_instructions(file)) == 1
    file.write_text("")
    with pytest.raises(DataError):
        read_instructions(file)
