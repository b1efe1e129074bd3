"""Wishes: those that ship, those of a file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmsteer.data.wishes import Wish, find_wish, wishes
from lmsteer.errors import DataError

OWN = 'name = "rhyme"\nlabel = "rhymes"\npositive = " in rhymes "\n'


def test_the_wishes_that_ship_are_whole_and_found_by_their_names():
    found = wishes()
    assert len(found) == 11
    for wish in found:
        assert find_wish(wish.name) == wish
        assert wish.positive
        assert wish.negative
        assert (wish.scorer == "") == (wish.name == "humour")
        assert "\n" not in wish.label


def test_a_wish_of_ones_own(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    wish = find_wish(tmp_path / "own.toml")
    assert (wish.name, wish.label, wish.scorer, wish.direction) == ("rhyme", "rhymes", "", 1)
    assert wish.contrast.positive == "in rhymes"
    assert wish.contrast.is_one_sided


@pytest.mark.parametrize("name", ["shortness", "../wishes/brevity", "brevity.json"])
def test_unknown_names_are_refused_with_those_that_exist(name):
    with pytest.raises(DataError, match=r"no wish .*: there are asking-back, brevity,.* and any FILE.toml"):
        find_wish(name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name = rhyme", "own.toml is no wish: .*line 1"),
        ('name = "rhyme"', "own.toml is no wish: the fields label, positive are missing"),
        (OWN + 'negativ = "prose"', "unknown fields negativ; a wish has name, label"),
        (OWN + "negative = 3", "'negative' must be a text, not 3"),
        (OWN + "direction = 0", "direction of the wish rhyme must be 1 or -1, not 0"),
        (OWN.replace("rhyme", " ", 1), "name or the label of the wish is empty"),
        (OWN.replace("in rhymes", " "), "own.toml is no wish: .*positive end is empty"),
        (OWN + 'negative = "in rhymes"', "same description"),
    ],
)
def test_a_file_that_is_no_wish_is_refused(tmp_path, content, reason):
    (tmp_path / "own.toml").write_text(content)
    with pytest.raises(DataError, match=reason):
        find_wish(tmp_path / "own.toml")


def test_a_missing_file_is_told_from_an_unknown_name():
    with pytest.raises(DataError, match=r"missing\.toml cannot be read"):
        find_wish("missing.toml")


def test_the_wishes_are_data_of_the_package():
    import lmsteer

    assert (Path(lmsteer.__file__).parent / "assets" / "wishes" / "brevity.toml").is_file()
    assert isinstance(lmsteer.find_wish("brevity"), Wish)
