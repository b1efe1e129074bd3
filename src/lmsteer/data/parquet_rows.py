"""Rows of Parquet files, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsteer.data.cells import TableRow, check_columns, name_classes
from lmsteer.data.text_files import check_kind
from lmsteer.errors import DataError


def parquet_rows(path: Path) -> Iterator[tuple[str, TableRow]]:
    """The rows of a file, each with its place. Columns of dates and times are left out.

    Raises:
        DataError: the file cannot be read, or two columns have the same name.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as start:
            if (head := start.read(64))[:4] != b"PAR1":
                check_kind(str(path), head)
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_columns(str(path), schema.names)
            classes = _class_names(schema.metadata or {})
            # Arrow refuses to convert some times, which are no texts or labels anyway.
            columns = [field.name for field in schema if not pyarrow.types.is_temporal(field.type)]
            rows = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", name_classes(_decoded(row), classes)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this Parquet file cannot be read: {error}.") from error


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with strings for the bytes that are UTF-8: some programs write texts so."""
    return {column: _text(value) if isinstance(value, bytes) else value for column, value in row.items()}


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Names of the classes of each column of class labels, which the datasets library writes beside the data."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: feature["names"] for column, feature in features.items() if feature["_type"] == "ClassLabel"}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
