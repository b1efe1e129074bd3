"""Isolation: what fails for several sequences at once is tried again with fewer, until each is tried alone.

::

    0 1 2 3 4 5 6 7   fails
    0 1 2 3           passes
            4 5 6 7   fails
            4 5       fails
            4         passes
              5       fails alone: it alone gets the error
                6 7   passes

So one sequence never ends another. It also helps where memory is short: halves need less of it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from lmsteer.errors import LMSteerError

_log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")


class StepError(LMSteerError):
    """A step failed on a sequence, and no fault of the request is known."""


def isolated(
    run: Callable[[Sequence[S]], T], items: Sequence[S], fail: Callable[[S, LMSteerError], None]
) -> list[tuple[Sequence[S], T]]:
    """Run something for all items at once; where that fails, for each half of them, and for halves of these.

    Args:
        run: must be such that it can be repeated for items for which it failed.
        items: what to run it for.
        fail: gets each item for which it fails alone, and the error.

    Returns:
        The parts of the items for which it passed, in their order, with its results.
    """
    if not items:
        return []
    try:
        return [(items, run(items))]
    except BaseException as error:  # a panic of the tokenizer's library is no Exception
        if len(items) == 1:
            fail(items[0], as_step_error(error))
            return []
    # Outside of the handler, where the error would hold the memory of the attempt.
    return [part for half in halves(items) for part in isolated(run, half, fail)]


def halves(items: Sequence[S]) -> tuple[Sequence[S], Sequence[S]]:
    """Both halves of some items."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def as_step_error(error: BaseException) -> LMSteerError:
    """The error that a sequence ends with: an error of lmsteer as it is, all others as a ``StepError``, and logged."""
    if isinstance(error, LMSteerError):
        return error
    _log.error("a step failed", exc_info=error)
    return StepError(f"the step failed: {type(error).__name__}: {error}")
