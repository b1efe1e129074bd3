"""Rows of files are read as they were written, and what cannot be read is named with its place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmsteer.data.cells import ClassName
from lmsteer.data.table_rows import is_table, read_rows
from lmsteer.errors import DataError


def values(source):
    return [row for _, row in read_rows(source)]


def test_every_kind_of_file_is_known_by_its_name_in_any_case(tmp_path):
    line, rows = b'{"a": "1"}\n', [{"a": "1"}]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + line))
    (tmp_path / "B.JSONL.GZ").write_bytes(line)
    (tmp_path / "c.ndjson.xz").write_bytes(lzma.compress(line))
    (tmp_path / "d.v2.json").write_bytes(b'[{"a": "1"}]')
    (tmp_path / "e.csv.bz2").write_bytes(bz2.compress(b"a\n1\n\n"))
    (tmp_path / "F.CSV").write_bytes(b"a\n1\n")
    (tmp_path / "g.tsv").write_bytes(b"a\tb\n1\t2\n")
    pq.write_table(pa.table({"a": ["1"]}), tmp_path / "h.PARQUET")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert [values(tmp_path / name) for name in names] == [
        [{**rows[0], "b": "2"}] if "g.tsv" in n else rows for n in names
    ]
    assert is_table(Path("x.Csv.zst"))
    assert not is_table(Path("x.txt"))


@pytest.mark.parametrize("name", ["x.txt", "x.xlsx", "x.csv.zip", "x"])
def test_other_kinds_of_files_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(DataError, match=r"unknown kind of file; data files end in .*Save a spreadsheet as CSV"):
        values(tmp_path / name)


def test_what_is_no_file_is_named(tmp_path):
    for name in ("gone.jsonl", "gone.csv.gz", "https://example.org/x.csv", "s3://x"):
        with pytest.raises(DataError, match=f"{name}: no such file"):
            values(name)
    with pytest.raises(DataError, match="is a folder; name one of its files"):
        values(tmp_path)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        values("x" * 5000)
    (tmp_path / "x.jsonl").write_text("{}")
    with pytest.raises(DataError, match="which has no splits: leave out --split test"):
        list(read_rows(tmp_path / "x.jsonl", "test"))


def test_other_names_are_datasets_of_the_hub(monkeypatch):
    asked = []

    @dataclass
    class ClassLabel:
        names: list[str]

    @dataclass
    class Rows:
        features: dict[str, object]
        rows: list[dict[str, int]]

        def __iter__(self):
            return iter(self.rows)

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        if split == "gone":
            raise RuntimeError("no such split")
        features = {"a": ClassLabel(["no", "yes"]), "b": object()}
        return Rows(features, [{"a": 1, "b": 1}, {"a": 0, "b": 1}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, ClassLabel=ClassLabel))
    assert list(read_rows("org/name", "test")) == [
        ("org/name (test), row 1", {"a": ClassName("yes", 1), "b": 1}),
        ("org/name (test), row 2", {"a": ClassName("no", 0), "b": 1}),
    ]
    with pytest.raises(DataError, match="'org/name' is not a file here, and the Hub dataset cannot be loaded: no such"):
        list(read_rows("org/name", "gone"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"install `pip install 'lmsteer\[hub\]'`"):
        list(read_rows("org/name"))
    assert asked == [("org/name", "test", False), ("org/name", "gone", False)]
