"""A configuration of generation is checked when it is made."""

from __future__ import annotations

import math

import pytest

from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig, record_of


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GenerationConfig, {"num_samples": 0}, "number of samples must be 1 or more; it is 0"),
        (GenerationConfig, {"max_new_tokens": 0}, "max_new_tokens must be 1 or more"),
        (GenerationConfig, {"batch_size": -1}, "batch size must be 1 or more"),
        (SamplingConfig, {"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        (SamplingConfig, {"top_p": 1.01}, "top_p must be"),
        (SamplingConfig, {"top_p": math.nan}, "top_p must be"),
        (SamplingConfig, {"top_k": -1}, "top_k must be 0 or more"),
        (SamplingConfig, {"temperature": math.nan}, "temperature must be 0 or more, and finite"),
        (SamplingConfig, {"temperature": math.inf}, "temperature must be"),
        (GenerationConfig, {"stop": ("a", "")}, "a stop string is empty"),
        (GenerationConfig, {"stop": ""}, "a stop string is empty"),
        (Limits, {"plausible": 1.0}, "plausible must be at least 0 and below 1; it is 1.0"),
        (Limits, {"plausible": -0.1}, "plausible must be"),
        (Limits, {"plausible": math.nan}, "plausible must be"),
        (Limits, {"fresh": -1}, "fresh must be 0 or more; it is -1"),
        (Limits, {"kl": 0.0}, "kl must be above 0; it is 0.0"),
        (Limits, {"kl": math.nan}, "kl must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(kind, options, message):
    with pytest.raises(DataError, match=message):
        kind(**options)


def test_the_defaults_are_one_sample_of_forty_tokens_from_the_nucleus():
    config = GenerationConfig()
    assert (config.num_samples, config.max_new_tokens, config.seed, config.score) == (1, 40, 0, False)
    assert config.sampling == SamplingConfig(top_p=0.9, top_k=0, temperature=1.0)


def test_limits_that_are_off_are_not_on_record():
    plain = record_of(GenerationConfig())
    assert "limits" not in plain
    limited = record_of(GenerationConfig(limits=Limits(0.1, kl=2.0)))
    assert limited == {**plain, "limits": {"plausible": 0.1, "kl": 2.0}}


def test_one_stop_string_may_stand_alone():
    assert GenerationConfig(stop="end") == GenerationConfig(stop=["end"]) == GenerationConfig(stop=("end",))
