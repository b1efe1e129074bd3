"""Labelled texts: JSONL, CSV, Parquet (each also gzipped where that is usual) or a Hub dataset.

A labelled text is a text and a number in [-1, 1]: where it lies on the style dimension. Class labels are
mapped to numbers by the user (``negative=-1,positive=1``).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class LabelledText:
    """One text with its label in [-1, 1]."""

    text: str
    label: float

    @cached_property
    def digest(self) -> int:
        """A 128-bit digest of text and label: the same in every order, file and process."""
        content = json.dumps([self.text, self.label]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:16], "big")


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled texts come from, and how they are read: enough to read the same ones again.

    Attributes:
        path: a ``.jsonl``, ``.csv`` or ``.parquet`` file (JSONL and CSV may end in ``.gz``), or a Hub dataset id.
        text_column: name of the column that holds the texts.
        label_column: name of the column that holds the labels.
        label_map: number for each class label, where labels are not numbers already.
        split: which split of a Hub dataset.
        limit: draw so many of the texts; all if None.
        seed: of that draw.
    """

    path: str
    text_column: str = "text"
    label_column: str = "label"
    label_map: Mapping[str, float] | None = None
    split: str = "train"
    limit: int | None = None
    seed: int = 0

    def read(self) -> list[LabelledText]:
        """The texts that are not blank.

        Raises:
            DataError: no such file, not UTF-8, no such column, labels that cannot be used, or a bad limit.
        """
        if self.limit is not None and self.limit < 2:
            raise DataError(f"the limit must be two texts or more, not {self.limit}.")
        rows = read_rows(self.path, self.split)
        texts = [_labelled(row, place, self.text_column, self.label_column, self.label_map) for place, row in rows]
        kept = [labelled for labelled in texts if labelled.text.strip()]
        return sample_texts(kept, self.limit, self.seed) if self.limit else kept


def texts_fingerprint(texts: Iterable[LabelledText]) -> int:
    """The fingerprint of a set of texts: the sum of their digests, in any order."""
    return sum(labelled.digest for labelled in texts)


def read_labelled(
    source: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    label_map: Mapping[str, float] | None = None,
    split: str = "train",
) -> list[LabelledText]:
    """Read labelled texts.

    Args:
        source: a ``.jsonl``, ``.csv`` or ``.parquet`` file (JSONL and CSV may end in ``.gz``), or a Hub dataset id.
        text_column: name of the column that holds the texts.
        label_column: name of the column that holds the labels.
        label_map: number for each class label, where labels are not numbers already.
        split: which split of a Hub dataset.

    Raises:
        DataError: no such file, not UTF-8, no such column, or labels that cannot be used.
    """
    texts = LabelledSource(str(source), text_column, label_column, label_map, split).read()
    check_labelled(texts, str(source))
    return texts


def check_labelled(texts: Sequence[LabelledText], source: str) -> None:
    """Refuse what no steer can be fitted on.

    Raises:
        DataError: fewer than two texts, or labels that are all the same.
    """
    if len(texts) < 2:
        raise DataError(f"{source} holds {len(texts)} texts; a fit needs two at least, and likes hundreds.")
    if len({labelled.label for labelled in texts}) == 1:
        raise DataError(f"every label in {source} is {texts[0].label:g}: a dimension needs texts at both of its ends.")


def parse_label_map(notation: str) -> dict[str, float]:
    """Read ``negative=-1,positive=1``.

    Raises:
        DataError: a part is not NAME=NUMBER.
    """
    pairs = [part.rpartition("=") for part in notation.split(",")]
    try:
        mapping = {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        mapping = {"": math.nan}
    if "" in mapping:
        raise DataError(f"cannot read the label map {notation!r}: write it like 'negative=-1,positive=1'.")
    return mapping


def sample_texts(texts: Sequence[LabelledText], count: int, seed: int) -> list[LabelledText]:
    """Some of the texts, drawn without replacement; all of them where there are no more."""
    return random.Random(seed).sample(list(texts), min(count, len(texts)))


def _labelled(
    row: Mapping[str, Any],
    place: str,
    text_column: str,
    label_column: str,
    label_map: Mapping[str, float] | None,
) -> LabelledText:
    for column in (text_column, label_column):
        if column not in row:
            raise DataError(
                f"{place}: no column {column!r}; there are {', '.join(map(repr, row)) or 'none'}. "
                "Choose with --text-column and --label-column."
            )
    text, label = row[text_column], row[label_column]
    if not isinstance(text, str):
        raise DataError(f"{place}: the text is {type(text).__name__}, not a string.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{place}: the text holds half of a surrogate pair; it is no valid Unicode.")
    return LabelledText(text, _number(label, place, label_map))


def _number(label: Any, place: str, label_map: Mapping[str, float] | None) -> float:
    if label_map is not None:
        if str(label) not in label_map:
            raise DataError(f"{place}: label {label!r} is not in the label map ({', '.join(label_map)}).")
        label = label_map[str(label)]
    try:
        number = float(label)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{place}: label {label!r} is not a number; map class labels like --label-map 'negative=-1,positive=1'."
        ) from error
    if math.isnan(number) or not -1 <= number <= 1:
        raise DataError(f"{place}: label {number:g} is outside [-1, 1]; scale or map the labels.")
    return number


def read_rows(source: str | Path, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a JSONL, CSV or Parquet file or of a Hub dataset, each with where it stands.

    Raises:
        DataError: no such file or dataset, or one that cannot be read.
    """
    path = Path(source)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.is_file() and kind not in _SUFFIXES:
        raise DataError(f"{path}: unknown kind of file; data come as {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        if kind in _SUFFIXES or path.is_dir():
            raise DataError(f"{path}: no such file.")
        return _hub_rows(str(source), split)
    if kind == ".parquet":
        return _parquet_rows(path)
    lines = text_of(path)
    return _csv_rows(path, lines) if kind == ".csv" else _json_rows(path, lines)


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, gzipped or not.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
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


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Only "\n" ends a line of JSONL; str.splitlines would also cut at characters that may stand in a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {number}: each line must be an object like {{"text": .., "label": ..}}.')
        yield f"{path}, line {number}", row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}.") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name!r} is no file here; to read it as a Hub dataset install `pip install 'lmsteer[hub]'`."
        ) from error
    try:
        rows: Sequence[Mapping[str, Any]] = datasets.load_dataset(name, split=split)
    except Exception as error:  # the Hub's client raises a dozen unrelated kinds
        raise DataError(f"{name!r} is no file here, and the Hub dataset cannot be loaded: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{name} ({split}), row {number}", row
