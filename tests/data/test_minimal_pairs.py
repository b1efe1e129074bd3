"""Minimal pairs are read from data files under either set of names, and what is no pair is refused."""

from __future__ import annotations

import json

import pytest

from lmsteer.data.minimal_pairs import Kept, MinimalPair, read_minimal_pairs
from lmsteer.errors import DataError


def written(folder, *rows):
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def test_both_sets_of_names_are_read(tmp_path):
    file = written(
        tmp_path,
        {"good": "Cats sleep.", "bad": "Cats sleeps.", "phenomenon": "agreement"},
        {"good": "He ate.", "bad": "He eated."},
    )
    assert read_minimal_pairs(file) == [
        MinimalPair("Cats sleep.", "Cats sleeps.", "agreement"),
        MinimalPair("He ate.", "He eated."),
    ]
    file = written(tmp_path, {"sentence_good": "A b.", "sentence_bad": "B a.", "linguistics_term": "order", "UID": "x"})
    assert read_minimal_pairs(file) == [MinimalPair("A b.", "B a.", "order")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"good": "Cats sleep."}, "line 1.*bad"),
        ({"good": "Cats sleep.", "bad": "Cats sleep."}, "line 1: a minimal pair is two different sentences"),
        ({"good": "Cats sleep.", "bad": " "}, "neither is empty"),
        ({"good": 3, "bad": "Cats"}, "line 1.*good"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_minimal_pairs(written(tmp_path, row))
    with pytest.raises(DataError, match="no minimal pairs"):
        read_minimal_pairs(written(tmp_path))


@pytest.mark.parametrize("share", [0.0, 1.01, float("nan")])
def test_a_share_that_cannot_be_kept_is_refused(share):
    with pytest.raises(DataError, match="above 0 and at most 1"):
        Kept([MinimalPair("a", "b")], share)
    with pytest.raises(DataError, match="no minimal pairs"):
        Kept([], 0.9)
