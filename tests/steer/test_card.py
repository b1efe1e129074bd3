"""A steer's card tells its base by a sample of the output embedding."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsteer.errors import WrongBaseError
from lmsteer.model.fingerprints import head_sample
from tiny import card


def test_another_head_and_half_a_sample_are_refused(llama):
    sample = head_sample(llama.head.weight, len(llama.head.weight))
    own = replace(card(llama, "x"), head_sample=tuple(sample.values()))
    own.check_head(sample)
    with pytest.raises(WrongBaseError, match="output embedding is another"):
        own.check_head({place: value + 1 for place, value in sample.items()})
    for length in (0, 3, len(sample) - 1):
        with pytest.raises(WrongBaseError, match="no whole sample of its base's head"):
            replace(own, head_sample=own.head_sample[:length]).check_head(sample)
