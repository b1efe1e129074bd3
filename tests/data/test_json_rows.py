"""JSON is read in every form in which tables are written, or refused with its place."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.json_rows import json_rows, json_value
from lmsteer.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": -1}]


def rows_of(content: str) -> list[dict[str, object]]:
    return [dict(row) for _, row in json_rows("x", content)]


@settings(max_examples=25)
@given(
    st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4), st.sampled_from(["", " ", "\n", "\r\n", "\n\n"])
)
def test_any_objects_are_read_back_from_lines_and_arrays(rows, end):
    assert rows_of(json.dumps(rows, indent=len(end) or None, ensure_ascii=bool(end))) == rows
    if len(rows) > 1:
        assert rows_of(end.join(json.dumps(row, indent=len(end) or None) for row in rows)) == rows


@settings(max_examples=30)
@given(
    st.lists(st.tuples(TEXTS, st.integers(-1, 1)), min_size=1, max_size=4),
    st.sampled_from(["columns", "index", "records", "split", "table", "lines"]),
)
def test_what_pandas_writes_is_read_back(rows, orient):
    frame = pd.DataFrame(rows, columns=["text", "label"])
    content = frame.to_json(orient="records", lines=True) if orient == "lines" else frame.to_json(orient=orient)
    known = [{"text": text, "label": label} for text, label in rows]
    assert [{key: row[key] for key in ("text", "label")} for row in rows_of(content)] == known


@pytest.mark.parametrize(
    "table",
    [
        {"text": ["a", "b"], "label": [1, -1]},
        {"data": ROWS, "version": "1.0"},
        {"text": {"3": "a", "7": "b"}, "label": {"3": 1, "7": -1}},
        {"text": {"3": "a", "7": "b"}, "label": {"7": -1, "3": 1}},
        {"3": ROWS[0], "7": ROWS[1]},
    ],
)
def test_one_object_that_is_a_table_is_read(table):
    assert rows_of(json.dumps(table)) == ROWS


def test_one_object_that_is_a_row_stays_a_row():
    for row in ({"prompt": {"text": "a"}}, {"text": ["a"], "label": 1}, {"messages": [{"role": "user"}], "label": 1}):
        assert rows_of(json.dumps(row, indent=1)) == [row]


def test_places_name_the_line_or_the_row():
    lines = '{"a": 1}\n\n{\n"a": 2}\n {"a": 3}'
    assert [place for place, _ in json_rows("x", lines)] == ["x, line 1", "x, line 3", "x, line 5"]
    assert [place for place, _ in json_rows("x", '[{"a": 1}, {"a": 2}]')] == ["x, row 1", "x, row 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 1, "label": -1}', "x, line 1: the key 'label' stands twice in one object"),
        ('{"a": 1}\n{"a": {"b": 1, "b": 1}}', "x, line 2: the key 'b' stands twice"),
        ('{"a": 1}\n[]', "x, line 2: each row must be an object such as .*, not list"),
        ('[{"a": 1}, ["b"]]', "x, row 2: each row must be an object"),
        ('"text"', "x, line 1: each row must be an object"),
        ('{"a": 1}\n{"text', "x, line 2: not JSON: Unterminated string"),
        ('{"a": 1\n{"a": 2}', r"x, line 1: not JSON: Expecting ',' delimiter \(line 2, column 1\)"),
        ('{"a": 1},\n{"a": 2}', r"x, line 1: not JSON: .* column 9\)"),
        ('[{"a": 1},\n{"a": 2},\n]', "x, line 3: not JSON"),
        ("text,label\na,1", "x, line 1: not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": ["a"], "label": [1, 2]}', "lists differ in length .'text': 1, 'label': 2"),
        ('{"text": {"0": "a"}, "label": {"1": 1}}', "columns 'text', 'label' do not have the same rows"),
        ('{"columns": ["a", "b"], "data": [[1, 2], [3]]}', "x, row 2: not a list of 2 values"),
        ('{"columns": ["a", "a"], "data": [[1, 2]]}', "two columns are named 'a'"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(content, message):
    with pytest.raises(DataError, match=message):
        rows_of(content)


def test_one_value_is_parsed_or_refused():
    assert json_value("here", ' {"a": [1]} ') == {"a": [1]}
    for text in ("{", '{"a": 1} x', '{"a": 1, "a": 2}', "[" * 100_000):
        with pytest.raises(DataError, match="here: "):
            json_value("here", text)
