"""Small things that one does with lists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TypeVar

T = TypeVar("T")


def swap_out(items: list[T], place: int) -> T:
    """Remove an item and return it; the last one takes its place, and the others stay where they are."""
    items[place], items[-1] = items[-1], items[place]
    return items.pop()


def common_length(one: Sequence[T], other: Sequence[T]) -> int:
    """How many items two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
