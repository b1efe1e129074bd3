"""Runs that can be resumed say so, whatever stopped them."""

from __future__ import annotations

import pytest

from lmsteer.errors import InterruptedWorkError, OutputError
from lmsteer.util.run import resumable


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), (InterruptedWorkError, "interrupted. The blocks are kept.")),
        (OutputError("cannot write x: full."), (OutputError, "cannot write x: full. The blocks are kept.")),
    ],
)
def test_what_is_kept_is_told(error, told):
    with pytest.raises(told[0]) as caught, resumable("The blocks are kept."):
        raise error
    assert str(caught.value) == told[1]
