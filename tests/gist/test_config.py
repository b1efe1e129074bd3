"""Settings of a fit: what is refused, and which of them the result depends on."""

from __future__ import annotations

import pytest

from lmsteer.errors import DataError
from lmsteer.gist.config import GistConfig


@pytest.mark.parametrize("name", ["tokens", "rank", "steps", "batch_size", "tokens_per_microbatch", "eval_steps"])
def test_counts_of_zero_are_refused(name):
    with pytest.raises(DataError, match=f"{name.replace('_', ' ')} must be one or more, not 0"):
        GistConfig(**{name: 0})


@pytest.mark.parametrize("wrong", [{"learning_rate": -1.0}, {"learning_rate": float("nan")}, {"seed": -1}])
def test_rates_and_seeds_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match="must be"):
        GistConfig(**wrong)


def test_settings_that_do_not_change_the_result_are_not_recorded():
    assert GistConfig(tokens_per_microbatch=8, eval_steps=3).to_json() == GistConfig().to_json()
    assert GistConfig(rank=3).to_json() != GistConfig().to_json()
