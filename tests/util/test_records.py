"""Records: values of another type than annotated are refused by name, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import pytest

from lmsteer.util.records import Finite, FormatError, from_record, number_in, parse_json

NAN = float("nan")


class Point(TypedDict):
    x: Finite | None


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 0
    is_done: bool = False
    score: float = 0.0
    strength: Finite = 0.0
    ends: tuple[Finite, Finite] | None = None
    sample: tuple[Finite, ...] = ()
    form: Literal["add", "multiply"] = "add"
    curve: list[Point] = field(default_factory=list)
    inner: Sequence[Inner] = ()
    words: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def test_a_record_becomes_a_dataclass():
    record = {"name": "x", "count": 2, "score": 1, "ends": [-1, 2.5], "sample": [1.0], "form": "multiply"}
    record |= {"curve": [{"x": None}, {"x": 1}], "inner": [{"share": 0.5}], "words": {"a": 1.0}, "unknown": 1}
    expected = Outer("x", 2, False, 1, 0.0, (-1, 2.5), (1.0,), "multiply", [{"x": None}, {"x": 1}], [Inner(0.5)])
    assert from_record(Outer, record | {"more": {"a": [1]}, "words": {}}) == Outer(
        **{**vars(expected), "more": {"a": [1]}}
    )
    assert str(from_record(Outer, {"name": "x", "score": None}).score) == "nan"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": 1}, "'name' must be a text, not 1"),
        ({"count": 1.5}, "'count' must be a whole number, not 1.5"),
        ({"count": True}, "'count' must be a whole number, not True"),
        ({"is_done": 1}, "'is_done' must be true or false"),
        ({"score": "1"}, "'score' must be a number, not str"),
        ({"strength": NAN}, "'strength' must be a finite number, not nan"),
        ({"strength": None}, "'strength' must be a finite number, not NoneType"),
        ({"strength": 10**400}, "'strength' must be a finite number"),
        ({"ends": [1]}, "'ends' must be a list of 2, not list"),
        ({"ends": {"low": 1}}, "'ends' must be a list of 2, not dict"),
        ({"sample": [1, None]}, "'sample' must be a finite number"),
        ({"form": "rotate"}, r"'form' must be one of \('add', 'multiply'\)"),
        ({"form": ["add"]}, "'form' must be one of"),
        ({"curve": {"x": 1}}, "'curve' must be a list"),
        ({"curve": [{}]}, "the fields x of 'curve' are missing"),
        ({"curve": [{"x": "1"}]}, "'curve.x' must be a finite number"),
        ({"inner": [3]}, "a Inner must be a JSON object, not int"),
        ({"words": {"a": "b"}}, "'words.a' must be a number"),
        ({"more": []}, "'more' must be an object, not list"),
    ],
)
def test_another_type_is_refused_by_name(value, message):
    with pytest.raises(FormatError, match=message):
        from_record(Outer, {"name": "x", **value})


def test_a_missing_field_is_named():
    with pytest.raises(FormatError, match="the fields name are missing"):
        from_record(Outer, {})


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a": ' * 100_000, "1" * 5000, b"\xff"])
def test_what_is_no_json_is_refused(content):
    with pytest.raises(FormatError, match="no JSON that can be read"):
        parse_json(content)


def test_numbers_that_nobody_checked():
    record = {"a": 1, "b": NAN, "c": "1", "d": None, "e": True}
    assert [number_in(record, name) for name in "abcdef"] == [1, None, None, None, None, None]


def test_json_with_a_key_twice_is_refused_at_any_depth():
    assert parse_json('{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    for content in ('{"a": 1, "b": 2, "a": 1}', '[{"c": {"a": null, "a": 1}}]'):
        with pytest.raises(FormatError, match="the key 'a' stands twice in one object"):
            parse_json(content)
