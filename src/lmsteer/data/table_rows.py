"""Rows of data files (JSONL, JSON, CSV, TSV and Parquet; all but the last may be packed), and of Hub datasets.

Every row comes with its place ("reviews.csv, line 7"), which error messages name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmsteer.data.cells import TableRow
from lmsteer.data.csv_rows import csv_rows
from lmsteer.data.hub_rows import hub_rows
from lmsteer.data.json_rows import json_line_rows, json_rows
from lmsteer.data.parquet_rows import parquet_rows
from lmsteer.data.text_files import read_text, stream_lines
from lmsteer.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_LINES = (".jsonl", ".ndjson")
_KINDS = (*_LINES, ".json", *_SEPARATORS, ".parquet")
_PACKED = (".gz", ".bz2", ".xz", ".zst")


def read_rows(source: str | Path, split: str = "train") -> Iterator[tuple[str, TableRow]]:
    """Read the rows of a file or a Hub dataset, each with its place.

    Args:
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, or a Hub dataset id. All but Parquet
            may be packed by gzip, bzip2 or xz.
        split: the split of a Hub dataset; a file has only ``train``.

    Yields:
        The place of each row, in words, and the row: a value for each column.

    Raises:
        DataError: there is no such file or dataset, or it cannot be read.
    """
    path, kind = Path(source), _kind(Path(source))
    if _is_of_hub(path, source):
        return hub_rows(str(source), split)
    if split != "train":
        raise DataError(f"{path} is a file, which has no splits: leave out --split {split}.")
    if kind not in _KINDS:
        raise DataError(
            f"{path}: unknown kind of file; data files end in {', '.join(_KINDS)}. Save a spreadsheet as CSV in UTF-8; "
            "unpack an archive."
        )
    if kind == ".parquet":
        return parquet_rows(path)
    content = read_text(path)
    if kind in _SEPARATORS:
        return csv_rows(str(path), content, _SEPARATORS[kind])
    return json_rows(str(path), content)


def stream_rows(source: str | Path, split: str = "train") -> Iterator[tuple[str, TableRow]]:
    """Read the rows of a file or a Hub dataset in memory that does not grow with their number.

    Args:
        source: a ``.jsonl`` file (packed or not), a ``.parquet`` file, or a Hub dataset id, which is not downloaded
            before it is read.
        split: the split of a Hub dataset.

    Yields:
        As ``read_rows`` does.

    Raises:
        DataError: there is no such file or dataset, it cannot be read, or a file of its kind is read as a whole.
    """
    path = Path(source)
    if _is_of_hub(path, source):
        return hub_rows(str(source), split, stream=True)
    if not path.is_file() or _kind(path) == ".parquet" or split != "train":
        return read_rows(source, split)  # row by row, or refused
    if _kind(path) not in _LINES:
        raise DataError(f"{path} is read as a whole; a stream is a .jsonl or .parquet file, or a Hub dataset.")
    return json_line_rows(str(path), stream_lines(path))


def _is_of_hub(path: Path, source: str | Path) -> bool:
    """Whether a source is no file, and may be a dataset of the Hub.

    Raises:
        DataError: it can be neither.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:  # such as a name that no file can have
        raise DataError(f"{str(source)[:80]!r} cannot be read: {error.strerror}.") from error
    if is_folder:
        raise DataError(f"{path} is a folder; name one of its files, or join them into one.")
    if not exists and (_kind(path) in _KINDS or "://" in str(source)):
        raise DataError(f"{source}: no such file.")
    return not exists


def is_table(path: Path) -> bool:
    """Whether a file holds rows, by its name."""
    return _kind(path) in _KINDS


def _kind(path: Path) -> str:
    """The suffix that says what a file holds, in small letters."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
