"""Columns are found by name, and one that two columns may be is refused."""

from __future__ import annotations

import pytest

from lmsteer.data.cells import ClassName, cell, name_classes, text_value
from lmsteer.errors import DataError


def test_columns_are_found_in_any_case_and_refused_where_two_have_the_name():
    assert cell("x", {"Text ": "a", "label": 1}, "text") == "a"
    assert cell("x", {"text": "a"}, "prompt", "TEXT") == "a"
    with pytest.raises(DataError, match="x: the columns 'label' and 'LABEL ' both read 'label'"):
        cell("x", {"label": 1, "LABEL ": -1}, "label")
    with pytest.raises(
        DataError, match=r"x: no column 'prompt' or 'text'; the columns are 'a', 'b'\. Choose well\. The"
    ):
        cell("x", {"a": 1, "b": 2}, "prompt", "text", advice="Choose well. ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "is missing"),
        (3, "is int, not a string"),
        (["a"], "is list"),
        (b"\xff", "is bytes"),
        ("\ud800", "holds half of a"),
    ],
)
def test_only_texts_are_texts(value, message):
    with pytest.raises(DataError, match=f"here: the text {message}"):
        text_value("here", "text", value)


def test_numbers_of_classes_get_their_names():
    row = {"text": "a", "label": 1, "other": -1, "more": 7}
    named = name_classes(row, {"label": ["neg", "pos"], "other": ["a"], "more": ["a"], "gone": ["a"]})
    assert named == {"text": "a", "label": ClassName("pos", 1), "other": None, "more": 7}
