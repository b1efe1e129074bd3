"""Methods that lack their instructions are not compared."""

from __future__ import annotations

import pytest

from lmsteer.baselines.names import METHOD_NAMES
from lmsteer.errors import DataError
from lmsteer.evaluation.compare.methods import select_methods


@pytest.mark.parametrize(
    ("names", "with_instructions", "expected"),
    [
        (None, False, set(METHOD_NAMES) - {"prompting", "gist"}),
        (None, True, set(METHOD_NAMES)),
        (["steer", " prompting"], True, {"prompting", "steer"}),
    ],
)
def test_methods_without_their_instructions_are_left_out(names, with_instructions, expected):
    assert set(select_methods(names, with_instructions=with_instructions)) == expected


def test_methods_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="gist needs --negative-prompt"):
        select_methods(["steer", "gist"], with_instructions=False)
    with pytest.raises(DataError, match="unknown methods magic, more: there are steer"):
        select_methods(["magic", "more"], with_instructions=True)
    for names in ([""], ["steer", " "]):
        with pytest.raises(DataError, match="--methods has an empty name in"):
            select_methods(names, with_instructions=True)
