"""Minimal pairs (BLiMP, Warstadt et al., 2020): two sentences that differ in one point of grammar; one is right.

A row has the columns ``good`` and ``bad``, or those of BLiMP's own files, ``sentence_good`` and ``sentence_bad``. What
the pair tests stands in ``phenomenon`` (or BLiMP's ``linguistics_term``), if there is such a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsteer.data.cells import TableRow, cell, has_column, text_value
from lmsteer.data.table_rows import read_rows
from lmsteer.errors import DataError

_PHENOMENON = ("phenomenon", "linguistics_term")


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences.

    Attributes:
        good: the one that is right.
        bad: the one that is not.
        phenomenon: the point of grammar that they differ in; empty if the data do not say.
    """

    good: str
    bad: str
    phenomenon: str = ""


@dataclass(frozen=True)
class Kept:
    """How much of a model's knowledge of grammar a steer shall leave.

    Attributes:
        pairs: the pairs by which it is measured.
        share: the least share of the accuracy without a steer; above 0, at most 1.

    Raises:
        DataError: there are no pairs, or the share is out of range.
    """

    pairs: Sequence[MinimalPair]
    share: float

    def __post_init__(self) -> None:
        if not self.pairs:
            raise DataError("there are no minimal pairs to measure what is kept by.")
        if not 0 < self.share <= 1:
            raise DataError(f"the share to be kept must be above 0 and at most 1, not {self.share:g}.")


def read_minimal_pairs(source: str | Path, split: str = "train") -> list[MinimalPair]:
    """Read minimal pairs from a data file or a Hub dataset.

    Args:
        source: a file, or a Hub dataset id.
        split: the split of a Hub dataset.

    Raises:
        DataError: it cannot be read or is empty, a column is missing, or both sentences of a pair are the same, or one
            is empty.
    """
    pairs = [_pair(place, row) for place, row in read_rows(source, split)]
    if not pairs:
        raise DataError(f"{source} holds no minimal pairs.")
    return pairs


def _pair(place: str, row: TableRow) -> MinimalPair:
    good, bad = (text_value(place, name, cell(place, row, name, f"sentence_{name}")) for name in ("good", "bad"))
    if not good.strip() or not bad.strip() or good == bad:
        raise DataError(f"{place}: a minimal pair is two different sentences, and neither is empty.")
    known = any(has_column(place, row, column) for column in _PHENOMENON)
    return MinimalPair(good, bad, str(cell(place, row, *_PHENOMENON)) if known else "")
