"""Rows of files are read as they were written, and what cannot be read is named with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.table_rows import read_rows, read_text
from lmsteer.errors import DataError

CELLS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), CELLS)


def values(source):
    return [row for _, row in read_rows(source)]


@settings(max_examples=40)
@given(st.lists(st.dictionaries(CELLS, VALUES, max_size=3), max_size=4), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_objects_are_read_back_from_jsonl(tmp_path_factory, rows, ascii_only, end):
    file = tmp_path_factory.mktemp("rows") / "x.jsonl"
    file.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows).encode())
    assert values(file) == rows


@settings(max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_any_cells_are_read_back_from_csv(tmp_path_factory, rows, end):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    file = tmp_path_factory.mktemp("rows") / "x.csv"
    file.write_bytes(buffer.getvalue().encode())
    assert values(file) == [{"text": text, "label": label} for text, label in rows]


def test_gzip_and_parquet_and_byte_order_marks_are_read(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf{"a": 1}\n'))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"a\n1\n\n"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "c.parquet")
    assert values(tmp_path / "a.jsonl.gz") == values(tmp_path / "c.parquet") == [{"a": 1}]
    assert values(tmp_path / "b.csv.gz") == [{"a": "1"}]


def test_places_name_the_file_and_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "b.csv").write_text('a,b\n"one\nof two lines",2\n3,4\n')
    assert [place for place, _ in read_rows(tmp_path / "a.jsonl")] == [
        f"{tmp_path / 'a.jsonl'}, line {line}" for line in (1, 3)
    ]
    assert [place.rpartition(" ")[2] for place, _ in read_rows(tmp_path / "b.csv")] == ["3", "4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n[]', "line 2: each line must be an object"),
        ("x.jsonl", b'{"a": 1}\n{"text', "line 2: not JSON"),
        ("x.jsonl", "caf\xe9".encode("latin-1"), r"not UTF-8 \(byte 3\)"),
        ("x.jsonl.gz", b"not gzip", "cannot be read"),
        ("x.csv", b'text,label\n"open,1', "not CSV"),
        ("x.csv", b"label,text\n1,fine, but slow\n", "line 2: 3 cells, but the header has 2; texts with commas need"),
        ("x.csv", b"label,text\n1\n", "line 2: 1 cells, but the header has 2"),
        ("x.parquet", b"PAR1", "this Parquet file cannot be read"),
        ("x.txt", b"hello", "unknown kind of file"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        values(tmp_path / name)


def test_missing_files_are_named(tmp_path):
    for name in ("gone.jsonl", "gone.csv.gz", "."):
        with pytest.raises(DataError, match="no such file"):
            values(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_text(tmp_path / "gone.txt")


def test_other_names_are_datasets_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if split == "gone":
            raise RuntimeError("no such split")
        return [{"a": 1}, {"a": 2}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read_rows("org/name", "test")) == [
        ("org/name (test), row 1", {"a": 1}),
        ("org/name (test), row 2", {"a": 2}),
    ]
    with pytest.raises(DataError, match="'org/name' is not a file here, and the Hub dataset cannot be loaded: no such"):
        list(read_rows("org/name", "gone"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"install `pip install 'lmsteer\[hub\]'`"):
        list(read_rows("org/name"))
    assert asked == [("org/name", "test"), ("org/name", "gone")]
