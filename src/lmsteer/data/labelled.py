"""Labelled texts: a text and a number in [-1, 1], which says where the text lies on the style dimension.

Class labels are mapped to numbers by the user (``negative=-1,positive=1``).
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from lmsteer.data.cells import TableRow, cell, text_value
from lmsteer.data.labels import read_labels, suggested_map
from lmsteer.data.table_rows import read_rows
from lmsteer.errors import DataError

Tell = Callable[[str], None]


def _untold(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class LabelledText:
    """One text with its label.

    Attributes:
        text: the text.
        label: its place on the style dimension, from -1 to 1.

    Raises:
        DataError: the text is no text, or the label is no number from -1 to 1.
    """

    text: str
    label: float

    def __post_init__(self) -> None:
        text_value(f"the labelled text {self.text!r:.60}", "text", self.text)
        label: Any = self.label
        is_number = isinstance(label, Real) and not isinstance(label, bool)
        if not is_number or not -1 <= label <= 1:
            raise DataError(f"{self.text[:60]!r}: the label must be a number from -1 to 1, not {label!r}.")
        if type(label) not in (int, float):  # a number of another library
            object.__setattr__(self, "label", float(label))

    @cached_property
    def digest(self) -> int:
        """A 128-bit digest of text and label: the same in any order, file and process."""
        content = json.dumps([self.text, self.label]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:16], "big")


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled texts come from, and how they are read: enough to read the same ones again.

    Attributes:
        path: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, or a Hub dataset id.
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

    def read(self, tell: Tell = _untold) -> list[LabelledText]:
        """Read the texts; blank ones are left out.

        Args:
            tell: is told in a sentence what the texts may not be meant to be: blank, of one half of the dimension only,
                or the same with different labels.

        Raises:
            DataError: there is no such file, it cannot be read or lacks a column, a label cannot be used, or the limit
                is below 2.
        """
        if self.limit is not None and self.limit < 2:
            raise DataError(f"the limit must be 2 texts or more; it is {self.limit}.")
        rows = [(place, *self._cells(place, row)) for place, row in read_rows(self.path, self.split)]
        readable = [(place, text, label) for place, text, label in rows if text.strip()]
        labels = read_labels([(place, label) for place, _, label in readable], self.label_map)
        texts = [LabelledText(text, label) for (_, text, _), label in zip(readable, labels, strict=True)]
        blank = len(rows) - len(texts)
        doubts = (
            f"blank texts are left out: {blank} of {len(rows)} rows." if blank else None,
            half_of_dimension(texts) if self.label_map is None else None,
            _contradictions(texts),
        )
        for doubt in filter(None, doubts):
            tell(f"{self.path}: {doubt}")
        return sample_texts(texts, self.limit, self.seed) if self.limit else texts

    def _cells(self, place: str, row: TableRow) -> tuple[str, Any]:
        advice = "Choose with --text-column and --label-column. "
        text, label = (cell(place, row, column, advice=advice) for column in (self.text_column, self.label_column))
        return text_value(place, "text", text), label


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
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, or a Hub dataset id.
        text_column: the name of the column of texts.
        label_column: the name of the column of labels.
        label_map: a number for each class label, where labels are not numbers already.
        split: the split of a Hub dataset.

    Raises:
        DataError: there is no such file, it cannot be read or lacks a column, a label cannot be used, there are fewer
            than two texts, or all labels are the same.

    Warns:
        UserWarning: texts are blank, of one half of the dimension only, or the same with different labels.
    """
    labelled = LabelledSource(str(source), text_column, label_column, label_map, split)
    texts = labelled.read(lambda message: warnings.warn(message, UserWarning, stacklevel=4))
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


def half_of_dimension(texts: Sequence[LabelledText]) -> str | None:
    """A sentence about labels that lie on one side of 0 only, such as 0 and 1; None about others."""
    labels = {labelled.label for labelled in texts}
    low, high = min(labels, default=0), max(labels, default=0)
    if low == high or low < 0 < high:
        return None
    end, of_end = ("-1", "lowest") if low >= 0 else ("+1", "highest")
    example = suggested_map(labels) if 0 in (low, high) else ""
    return (
        f"the labels go from {low:g} to {high:g}, which is half of the dimension: 0 counts as its middle, and no text "
        f"is of its {end} end. If the {of_end} label means that end, scale the labels, or map them{example}."
    )


def _contradictions(texts: Sequence[LabelledText]) -> str | None:
    """A sentence about texts that occur with different labels; None if there are none."""
    found: dict[str, set[float]] = {}
    for labelled in texts:
        found.setdefault(labelled.text.strip(), set()).add(labelled.label)
    several = [text for text, labels in found.items() if len(labels) > 1]
    if not several:
        return None
    labels = " and ".join(f"{label:g}" for label in sorted(found[several[0]]))
    return (
        f"texts that occur with different labels, all of which are kept: {len(several)}. "
        f"The first is {several[0][:60]!r}, with {labels}."
    )
