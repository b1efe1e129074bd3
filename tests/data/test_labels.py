"""Labels are matched by value; what cannot be used is listed with its count."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.data.cells import ClassName
from lmsteer.data.labels import parse_label_map, read_labels, suggested_map
from lmsteer.errors import DataError


def numbers(*labels, label_map=None):
    return read_labels([(f"row {i}", label) for i, label in enumerate(labels, 1)], label_map)


@pytest.mark.parametrize(
    ("notation", "label"),
    [
        *(("true=1,false=-1", label) for label in (True, "true", " TRUE ", "True")),
        *(("1=1,0=-1", label) for label in (1, 1.0, "1", "1.0", " 1 ", "+1", "1e0", Decimal("1.0"))),
        ("1.0=1,0.0=-1", 1),
        ("-1=1,1=-1", "\N{MINUS SIGN}1"),
        *(("Positive=1,negative=-1", label) for label in ("positive", " POSITIVE\n", "Positive")),
        ("stra\xdfe=1,b=-1", "STRASSE"),
        ("caf\xe9=1,b=-1", "cafe\u0301"),
        ("pos=1,neg=-1", ClassName("Pos", 7)),
        ("7=1,0=-1", ClassName("pos", 7)),
        ("1=1,0=-1", ClassName("1", 0)),
    ],
)
def test_labels_are_matched_to_the_map_by_value(notation, label):
    assert numbers(label, label_map=parse_label_map(notation)) == [1.0]


def test_the_map_may_have_names_and_numbers_of_any_kind_in_python():
    assert [type(number) for number in numbers("a", label_map={"a": 1})] == [float]
    assert numbers(0, "1", label_map={0: -1.0, 1: 1.0}) == [-1.0, 1.0]
    assert numbers(False, "True", label_map={False: -1.0, True: 1.0}) == [-1.0, 1.0]


@pytest.mark.parametrize("label", [0.5, "0.5", " +.5", "5e-1", Decimal("0.5"), ClassName("0.5", 3)])
def test_numbers_are_labels(label):
    assert numbers(label, -1) == [0.5, -1.0]


def test_labels_that_the_map_lacks_are_listed_with_their_counts():
    labels = ["pos", "meh", None, "meh", "1", True, ClassName("so", 2), [1, 2], math.nan]
    message = (
        r"row 2: label 'meh' is not in the label map \(pos, neg\); add it, .*\. 8 of 9 rows have such labels: "
        r"'meh' \(2\), none \(1\), '1' \(1\), true \(1\), 'so' \(class 2\) \(1\), \[1, 2\] \(1\), nan \(1\)\."
    )
    with pytest.raises(DataError, match=message):
        numbers(*labels, label_map={"pos": 1.0, "neg": -1.0})
    with pytest.raises(DataError, match=r"'c7' \(1\) and 12 more"):
        numbers(*(f"c{i}" for i in range(20)), label_map={"x": 1.0})
    with pytest.raises(
        DataError, match=r"label '0' \(class 1\) is not in"
    ):  # named by numbers: 1 may be meant either way
        numbers(ClassName("0", 1), label_map={"1": 1.0})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("good", "bad", "good"), r"row 1: label 'good' is not a number; map .* 3 of 3 .*: 'good' \(2\), 'bad' \(1\)"),
        ((True, False), "label true is not a number; map class labels like --label-map 'false=-1,true=1'"),
        (("True", "false"), "--label-map 'false=-1,true=1'"),
        ((1, None), "row 2: label none is not a number"),
        ((1, math.nan), "row 2: label nan is not a number"),
        ((1, ""), "row 2: label '' is not a number"),
        (("0,5", "-1"), "row 1: label '0,5' is not a number; write a decimal point, not a comma"),
        (("0_1",), "not a number"),
        (("\u0661",), "not a number"),
        ((b"1",), "not a number"),
        ((ClassName("neg", 0), ClassName("pos", 1)), r"label 'neg' \(class 0\) is not a number"),
        ((1, 10**400), "row 2: label inf is outside"),
        ((1, "-1e999"), "row 2: label -inf is outside"),
        ((1, 2, 5, 4), r"row 2: label 2 is outside \[-1, 1\]; the labels go from 1 to 5. .* '1=-1,2=-0.5,4=0.5,5=1'"),
        ((1, 2), "'1=-1,2=1'"),
        ((1, 200), "the labels go from 1 to 200. Scale the labels, or map them.$"),
    ],
)
def test_labels_that_are_no_numbers_in_range_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        numbers(*labels)


def test_maps_are_suggested_for_few_numbers():
    assert suggested_map([1, 0, 0]) == ", for example --label-map '0=-1,1=1'"
    assert suggested_map([0.0, 0.5, 1.0]) == ", for example --label-map '0=-1,0.5=0,1=1'"
    assert suggested_map([1.0]) == suggested_map(range(12)) == suggested_map([0, 1 / 3, 1]) == ""


NAMES = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1).map(str.strip).filter(bool)


@given(st.dictionaries(NAMES, st.floats(-1, 1), min_size=1))
def test_any_label_map_is_read_back(mapping):
    try:
        read = parse_label_map(",".join(f" {name} = {number!r}" for name, number in mapping.items()))
    except DataError:
        assert len({*map(str.casefold, mapping)}) < len(mapping) or any(name[-1:].isdecimal() for name in mapping)
        return
    assert read == mapping
    assert numbers(*mapping, label_map=read) == list(mapping.values())


@given(st.text())
def test_label_maps_are_read_or_refused(notation):
    try:
        mapping = parse_label_map(notation)
    except DataError:
        return
    assert mapping
    assert all(name.strip() == name != "" and -1 <= number <= 1 for name, number in mapping.items())


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        *((notation, "write it like") for notation in ("", "good", "=1", "good=x", "a=1,,b=2")),
        ("a=1,a=-1", "has 'a' twice"),
        ("a=1,A=-1", "has 'A' twice .'a'."),
        ("1=1,1.0=-1", "has '1.0' twice .'1'."),
        ("a=5", "'a' to 5, which is outside"),
        ("a=nan", "'a' to nan, which is outside"),
    ],
)
def test_label_maps_that_cannot_be_used_are_refused(notation, message):
    with pytest.raises(DataError, match=message):
        parse_label_map(notation)


def test_a_list_of_one_label_is_that_label():
    """As annotation tools export the choice of one class."""
    assert read_labels([("row 1", ["pos"]), ("row 2", "neg")], {"pos": 1.0, "neg": -1.0}) == [1.0, -1.0]
    assert read_labels([("row 1", [1]), ("row 2", -1)], None) == [1.0, -1.0]
    with pytest.raises(
        DataError, match=r"label \['pos', 'neg'\] is not in the label map.*: \['pos', 'neg'\] \(1\), \[\] \(1\)"
    ):
        read_labels([("row 1", ["pos", "neg"]), ("row 2", [])], {"pos": 1.0, "neg": -1.0})
