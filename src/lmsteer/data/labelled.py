"""Labelled texts: a text and a number in [-1, 1], which says where the text lies on the style dimension.

Class labels are mapped to numbers by the user (``negative=-1,positive=1``).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsteer.data.table_rows import TableRow, read_rows
from lmsteer.errors import DataError


@dataclass(frozen=True)
class LabelledText:
    """One text with its label.

    Attributes:
        text: the text.
        label: its place on the style dimension, from -1 to 1.
    """

    text: str
    label: float

    @cached_property
    def digest(self) -> int:
        """A 128-bit digest of text and label: the same in any order, file and process."""
        content = json.dumps([self.text, self.label]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:16], "big")


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled texts come from, and how they are read: enough to read the same ones again.

    Attributes:
        path: a ``.jsonl``, ``.csv`` or ``.parquet`` file (JSONL and CSV may end in ``.gz``), or a Hub dataset id.
        text_column: the name of the column of texts.
        label_column: the name of the column of labels.
        label_map: a number for each class label, where labels are not numbers already.
        split: the split of a Hub dataset.
        limit: the number of texts to draw, without replacement; None for all of them.
        seed: the seed of that draw.
    """

    path: str
    text_column: str = "text"
    label_column: str = "label"
    label_map: Mapping[str, float] | None = None
    split: str = "train"
    limit: int | None = None
    seed: int = 0

    def read(self) -> list[LabelledText]:
        """Read the texts; blank ones are left out.

        Raises:
            DataError: there is no such file, it is not UTF-8 or lacks a column, a label cannot be used, or the limit is
                below 2.
        """
        if self.limit is not None and self.limit < 2:
            raise DataError(f"the limit must be 2 texts or more; it is {self.limit}.")
        texts = [self._labelled(place, row) for place, row in read_rows(self.path, self.split)]
        readable = [labelled for labelled in texts if labelled.text.strip()]
        return sample_texts(readable, self.limit, self.seed) if self.limit else readable

    def _labelled(self, place: str, row: TableRow) -> LabelledText:
        for column in (self.text_column, self.label_column):
            if column not in row:
                raise DataError(
                    f"{place}: no column {column!r}; the columns are {', '.join(map(repr, row)) or 'none'}. "
                    "Choose with --text-column and --label-column."
                )
        text = row[self.text_column]
        if not isinstance(text, str):
            raise DataError(f"{place}: the text is {type(text).__name__}, not a string.")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise DataError(f"{place}: the text holds half of a surrogate pair, which is not valid Unicode.")
        return LabelledText(text, _number(place, row[self.label_column], self.label_map))


def read_labelled(
    source: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    label_map: Mapping[str, float] | None = None,
    split: str = "train",
) -> list[LabelledText]:
    """Read labelled texts that a steer can be fitted on.

    Args:
        source: a ``.jsonl``, ``.csv`` or ``.parquet`` file (JSONL and CSV may end in ``.gz``), or a Hub dataset id.
        text_column: the name of the column of texts.
        label_column: the name of the column of labels.
        label_map: a number for each class label, where labels are not numbers already.
        split: the split of a Hub dataset.

    Raises:
        DataError: there is no such file, it is not UTF-8 or lacks a column, a label cannot be used, there are fewer
            than two texts, or all labels are the same.
    """
    texts = LabelledSource(str(source), text_column, label_column, label_map, split).read()
    check_labelled(texts, str(source))
    return texts


def check_labelled(texts: Sequence[LabelledText], source: str) -> None:
    """Refuse texts that no steer can be fitted on.

    Raises:
        DataError: there are fewer than two texts, or all labels are the same.
    """
    if len(texts) < 2:
        raise DataError(f"{source} holds {len(texts)} texts; a fit needs at least two, and should have hundreds.")
    if len({labelled.label for labelled in texts}) == 1:
        raise DataError(f"every label in {source} is {texts[0].label:g}; texts of both ends of the scale are needed.")


def texts_fingerprint(texts: Iterable[LabelledText]) -> int:
    """The fingerprint of a set of texts: the sum of their digests, which does not depend on their order."""
    return sum(labelled.digest for labelled in texts)


def sample_texts(texts: Sequence[LabelledText], count: int, seed: int) -> list[LabelledText]:
    """Draw texts without replacement; all of them, in another order, if there are no more than ``count``."""
    return random.Random(seed).sample(list(texts), min(count, len(texts)))


def parse_label_map(notation: str) -> dict[str, float]:
    """Parse ``negative=-1,positive=1``.

    Raises:
        DataError: a part is not NAME=NUMBER, a name occurs twice, or a number is outside [-1, 1].
    """
    mapping: dict[str, float] = {}
    for part in notation.split(","):
        name, _, value = (each.strip() for each in part.rpartition("="))
        try:
            number = float(value)
        except ValueError:
            name = ""
        if not name:
            raise DataError(f"cannot read the label map {notation!r}: write it like 'negative=-1,positive=1'.")
        if name in mapping:
            raise DataError(f"the label map {notation!r} has {name!r} twice.")
        if not -1 <= number <= 1:
            raise DataError(f"the label map {notation!r} maps {name!r} to {number:g}, which is outside [-1, 1].")
        mapping[name] = number
    return mapping


def _number(place: str, label: Any, label_map: Mapping[str, float] | None) -> float:
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
    if not -1 <= number <= 1:
        raise DataError(f"{place}: label {number:g} is outside [-1, 1]; scale or map the labels.")
    return number
