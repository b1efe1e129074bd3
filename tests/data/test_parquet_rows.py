"""Parquet is read in every type that holds texts and labels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmsteer.data.cells import ClassName
from lmsteer.data.parquet_rows import parquet_rows
from lmsteer.errors import DataError


def test_texts_of_every_type_are_read(tmp_path):
    columns = {
        "text": pa.array(["a", "é"], pa.large_string()),
        "bytes": pa.array([b"a", "é".encode()], pa.binary()),
        "image": pa.array([b"\xff", None], pa.binary()),
        "class": pa.array(["good", None]).dictionary_encode(),
        "label": pa.array([Decimal("0.5"), Decimal(-1)], pa.decimal128(3, 1)),
        "a.b": pa.array([1.5, None], pa.float32()),
        "when": pa.array([datetime.now(UTC)] * 2, pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=1)
    places, rows = zip(*parquet_rows(tmp_path / "x.parquet"), strict=True)
    assert [place.rpartition(", ")[2] for place in places] == ["row 1", "row 2"]
    assert rows[0] == {
        "text": "a",
        "bytes": "a",
        "image": b"\xff",
        "class": "good",
        "label": Decimal("0.5"),
        "a.b": 1.5,
    }
    assert rows[1] == {"text": "é", "bytes": "é", "image": None, "class": None, "label": Decimal(-1), "a.b": None}


def test_class_labels_get_the_names_that_the_datasets_library_wrote(tmp_path):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b"], "label": [1, -1]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    assert [row["label"] for _, row in parquet_rows(tmp_path / "x.parquet")] == [ClassName("pos", 1), None]
    pq.write_table(table.replace_schema_metadata({"huggingface": "[]"}), tmp_path / "x.parquet")
    assert [row["label"] for _, row in parquet_rows(tmp_path / "x.parquet")] == [1, -1]


def test_columns_with_one_name_and_damaged_files_are_refused(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([-1])], ["text", "label", "label"]), file
    )
    with pytest.raises(DataError, match=r"x.parquet: two columns are named 'label'"):
        list(parquet_rows(file))
    for content, message in (
        (file.read_bytes()[:-20], "this Parquet file cannot be read"),
        (b"", "this Parquet file cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(parquet_rows(file))
