"""Rows of data files: JSONL, CSV and Parquet (the first two may be gzipped), and Hub datasets.

Every row comes with its place ("reviews.csv, line 7"), which error messages name.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError

TableRow = Mapping[str, Any]

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(source: str | Path, split: str = "train") -> Iterator[tuple[str, TableRow]]:
    """Read the rows of a file or a Hub dataset, each with its place.

    Args:
        source: a ``.jsonl``, ``.csv`` or ``.parquet`` file (JSONL and CSV may end in ``.gz``), or a Hub dataset id.
        split: the split of a Hub dataset; files have no splits.

    Yields:
        The place of each row, in words, and the row: a value for each column.

    Raises:
        DataError: there is no such file or dataset, or it cannot be read.
    """
    path = Path(source)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.is_file() and suffix not in _SUFFIXES:
        raise DataError(f"{path}: unknown kind of file; data files end in {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        if suffix in _SUFFIXES or path.is_dir():
            raise DataError(f"{path}: no such file.")
        return _hub_rows(str(source), split)
    if suffix == ".parquet":
        return _parquet_rows(path)
    content = read_text(path)
    return _csv_rows(path, content) if suffix == ".csv" else _json_rows(path, content)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gzipped if its name ends in ``.gz``; a byte order mark is removed.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start}); convert it, for example with `iconv -t UTF-8`."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}.") from error


def _json_rows(path: Path, content: str) -> Iterator[tuple[str, TableRow]]:
    # Only "\n" ends a line of JSONL; str.splitlines would also split at characters that may occur in a text.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f'{place}: each line must be an object such as {{"text": .., "label": ..}}.')
        yield place, row


def _csv_rows(path: Path, content: str) -> Iterator[tuple[str, TableRow]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:  # an empty line
                continue
            if header is None:
                header = cells
                continue
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"{place}: {len(cells)} cells, but the header has {len(header)}; texts with commas need quotes."
                )
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, TableRow]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: this Parquet file cannot be read: {error}.") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, TableRow]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name!r} is not a file here; to read it as a Hub dataset, install `pip install 'lmsteer[hub]'`."
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the Hub's client raises a dozen unrelated kinds
        raise DataError(f"{name!r} is not a file here, and the Hub dataset cannot be loaded: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{name} ({split}), row {number}", row
