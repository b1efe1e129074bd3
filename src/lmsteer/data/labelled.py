"""Labelled texts: a text and a number in [-1, 1], which says where the text lies on the style dimension.

A text may stand after a prompt, which is read with it and is not part of it. Class labels are mapped to numbers by the
user (``negative=-1,positive=1``).
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

from lmsteer.data.cells import TableRow, text_value
from lmsteer.data.chats import AnyPrompt, Prompt, as_prompt, prompt_json
from lmsteer.data.labels import read_labels, suggested_map
from lmsteer.data.row_formats import Columns, Example, RowFormat, row_format
from lmsteer.data.table_rows import read_rows, stream_rows
from lmsteer.errors import DataError

# How spreadsheets, R, pandas and databases write a value that is missing.
_MISSING = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "nil", "#name?", "#ref!", "#value!"}

Tell = Callable[[str], None]


def _untold(message: str) -> None:
    """Tell nobody."""


# A steer of fewer texts than this is weak, and unreliable at large strengths: it is fitted in another way.
FEW_TEXTS = 200


@dataclass(frozen=True)
class LabelledText:
    """One text with its label.

    Attributes:
        text: the text.
        label: its place on the style dimension, from -1 to 1.
        prompt: what stands before the text and is not part of it: a text, or a chat that the text answers (a list of
            messages becomes one); None if nothing does.
        group: texts of one group, such as both texts of a pair, are held out together; empty for a text by itself.

    Raises:
        DataError: the text is no text, the prompt is no prompt, or the label is no number from -1 to 1.
    """

    text: str
    label: float
    prompt: AnyPrompt | None = None
    group: str = ""

    def __post_init__(self) -> None:
        text_value(f"the labelled text {self.text!r:.60}", "text", self.text)
        label: Any = self.label
        is_number = isinstance(label, Real) and not isinstance(label, bool)
        if not is_number or not -1 <= label <= 1:
            raise DataError(f"{self.text[:60]!r}: the label must be a number from -1 to 1, not {label!r}.")
        if type(label) not in (int, float):  # a number of another library
            object.__setattr__(self, "label", float(label))
        object.__setattr__(self, "prompt", self.before)

    @cached_property
    def before(self) -> Prompt | None:
        """The prompt; None if there is none, or an empty one."""
        if not self.prompt:
            return None
        return as_prompt(self.prompt, f"the prompt of {self.text[:60]!r}")

    @cached_property
    def digest(self) -> int:
        """A 128-bit digest of the text, its label and its prompt: the same in any order, file and process.

        Texts of one group have the same first 64 bits, which decide what is held out.
        """
        content: list[Any] = [self.text, self.label]
        if self.before is not None or self.group:
            content += [None if self.before is None else prompt_json(self.before), self.group]
        own = hashlib.sha256(json.dumps(content).encode()).digest()
        of_group = hashlib.sha256(self.group.encode()).digest()[:8] if self.group else b""
        return int.from_bytes((of_group + own)[:16], "big")


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled texts come from, and how they are read: enough to read the same ones again.

    Attributes:
        path: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, or a Hub dataset id. Its columns say
            what its rows are (``lmsteer.data.row_formats``).
        text_column: the name of the column of texts; another one than ``text`` means texts without prompts.
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
        """Read the texts; blank ones and pairs of twice the same text are left out.

        Args:
            tell: is told in a sentence what was left out, and what the texts may not be meant to be: of one half of the
                dimension only, the same with different labels, or written as a value that is missing.

        Raises:
            DataError: there is no such file, it cannot be read or lacks a column, a label cannot be used, an annotator
                did not accept a row, or the limit is below 2.
        """
        if self.limit is not None and self.limit < 2:
            raise DataError(f"the limit must be 2 texts or more; it is {self.limit}.")
        texts = self._texts([*self._examples(read_rows(self.path, self.split))], tell)
        return sample_texts(texts, self.limit, self.seed) if self.limit else texts

    def windows(self, rows: int, tell: Tell = _untold) -> Iterator[list[LabelledText]]:
        """Read the texts in windows of some rows, of which one at a time is in memory.

        Args:
            rows: number of rows in a window.
            tell: is told the same as by ``read``, of the first window alone.

        Raises:
            DataError: as ``read``, once that row is reached; or a limit, which is a draw from all texts.
        """
        if self.limit is not None:
            raise DataError("a limit draws from all texts, and a stream does not have all of them at once.")
        examples = self._examples(stream_rows(self.path, self.split))
        while some := [*islice(examples, rows)]:
            yield self._texts(some, tell)
            tell = _untold

    def _texts(self, rows: Sequence[tuple[str, tuple[Example, ...]]], tell: Tell) -> list[LabelledText]:
        """The texts of some rows, without what is left out."""
        readable = [(place, row) for place, row in rows if all(example.text.strip() for example in row)]
        kept = [(place, row) for place, row in readable if len(row) == 1 or row[0].text != row[1].text]
        found = [(place, example) for place, row in kept for example in row]
        labels = read_labels([(place, example.label) for place, example in found], self.label_map)
        texts = [
            LabelledText(example.text, label, example.prompt, example.group)
            for (_, example), label in zip(found, labels, strict=True)
        ]
        doubts = (
            _left_out("blank texts", rows, readable),
            _left_out("pairs of twice the same text", readable, kept),
            half_of_dimension(texts) if self.label_map is None else None,
            _contradictions(texts),
            _joined(texts),
            _missing(texts),
        )
        for doubt in filter(None, doubts):
            tell(f"{self.path}: {doubt}")
        return texts

    def _examples(self, rows: Iterable[tuple[str, TableRow]]) -> Iterator[tuple[str, tuple[Example, ...]]]:
        """The examples of each row, with its place; all rows have the format of the first."""
        columns = Columns(self.text_column, self.label_column)
        found: RowFormat | None = None
        for place, row in rows:
            found = found or row_format(place, row, columns)
            if not found.is_labelled and self.label_map is not None:
                raise DataError(f"{place}: {found.title} has no labels to map; leave out --label-map.")
            yield place, found.read(place, row, columns)


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
    texts = labelled.read(lambda message: warnings.warn(message, UserWarning, stacklevel=5))
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
    """Draw texts without replacement; all of them, in another order, if there are no more than ``count``.

    Texts of one group are drawn together, or not at all.
    """
    groups: dict[str | int, list[LabelledText]] = {}
    for number, labelled in enumerate(texts):
        groups.setdefault(labelled.group or number, []).append(labelled)
    drawn: list[LabelledText] = []
    for group in random.Random(seed).sample(list(groups.values()), min(count, len(groups))):
        if len(drawn) + len(group) > count:
            break
        drawn += group
    return drawn


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


def _left_out(
    what: str, rows: Sequence[tuple[str, tuple[Example, ...]]], kept: Sequence[tuple[str, tuple[Example, ...]]]
) -> str | None:
    """A sentence about rows that are left out; None if none are."""
    if len(rows) == len(kept):
        return None
    places = {place for place, _ in kept}
    first = next(place for place, _ in rows if place not in places)
    return f"{what} are left out: {len(rows) - len(kept)} of {len(rows)} rows. The first is in {first}."


def _joined(texts: Sequence[LabelledText]) -> str | None:
    """A sentence about prompts and texts with no white space between them; None if there are none."""
    prompted = [(text.before, text.text) for text in texts if isinstance(text.before, str)]
    joined = [(prompt, text) for prompt, text in prompted if not (prompt[-1].isspace() or text[0].isspace())]
    if not joined:
        return None
    prompt, text = joined[0]
    return (
        f"texts that follow their prompt without white space between them: {len(joined)} of {len(prompted)}. They are "
        f"read as they stand; the first is {prompt[-30:] + text[:30]!r}."
    )


def _missing(texts: Sequence[LabelledText]) -> str | None:
    """A sentence about texts that may stand for missing ones, such as ``NA``; None if there are none."""
    found = [labelled.text for labelled in texts if labelled.text.strip().lower() in _MISSING]
    if not found:
        return None
    return f"texts that may stand for a missing text, and are kept: {len(found)}. The first is {found[0]!r}."


def _contradictions(texts: Sequence[LabelledText]) -> str | None:
    """A sentence about texts that occur with different labels; None if there are none."""
    found: dict[tuple[Prompt | None, str], set[float]] = {}
    for labelled in texts:
        found.setdefault((labelled.before, labelled.text.strip()), set()).add(labelled.label)
    several = [key for key, labels in found.items() if len(labels) > 1]
    if not several:
        return None
    labels = " and ".join(f"{label:g}" for label in sorted(found[several[0]]))
    return (
        f"texts that occur with different labels, all of which are kept: {len(several)}. "
        f"The first is {several[0][1][:60]!r}, with {labels}."
    )
