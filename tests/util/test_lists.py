"""Lists: an item is taken out at no cost, and beginnings are compared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmsteer.util.lists import common_length, swap_out


@given(st.lists(st.integers(), min_size=1), st.data())
def test_the_last_item_takes_the_place_of_the_one_that_is_removed(items, data):
    place = data.draw(st.integers(0, len(items) - 1))
    left = list(items)
    assert swap_out(left, place) == items[place]
    assert sorted([*left, items[place]]) == sorted(items)
    assert left[:place] == items[:place]
    assert left[place:] == ([items[-1], *items[place + 1 : -1]] if place < len(items) - 1 else [])


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_beginnings_are_equal_and_longest(one, other):
    count = common_length(one, other)
    assert one[:count] == other[:count]
    assert count == min(len(one), len(other)) or one[count] != other[count]
