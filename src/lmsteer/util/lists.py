"""Lists whose order does not matter."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def swap_out(items: list[T], place: int) -> T:
    """Remove an item and return it; the last one takes its place, and the others stay where they are."""
    items[place], items[-1] = items[-1], items[place]
    return items.pop()
