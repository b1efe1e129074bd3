"""The prefix cache: prompts that begin alike are read from where they differ, and get the same logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.generation.prefill import read_prompts
from lmsteer.generation.prefix_cache import PrefixCache
from lmsteer.model.kv_cache import KVSlice, Start
from tiny import FAMILIES

SYSTEM = [5 + k % 90 for k in range(20)]


def states_of(lm, start):
    *_, last = read_prompts(lm, [start])
    return last.states[0]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mamba"}))
def test_a_prompt_after_a_kept_beginning_has_the_keys_and_values_of_the_whole(make_lm, family):
    lm, cache = make_lm(family), PrefixCache(100)
    first, second = Start([*SYSTEM, 7, 8, 9]), Start([*SYSTEM, 60, 61, 62, 63])
    cache.keep(first, states_of(lm, first))
    short = cache.shortened(second)
    assert (list(short.ids), short.position, short.kept.tokens) == ([60, 61, 62, 63], 20, 20)
    found, expected = states_of(lm, short), states_of(lm, second)
    assert found.tokens == expected.tokens == 23
    for one, other in zip([*found.keys, *found.values], [*expected.keys, *expected.values], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # float32, in two passes


def kept(*ids):
    """Keys and values that say which tokens they are of, one layer."""
    layer = torch.tensor(ids, dtype=torch.float32)[None, :, None]
    return KVSlice((layer,), (layer,))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=14, max_size=24), min_size=1, max_size=12), st.integers(0, 60))
def test_what_is_kept_fits_and_is_the_beginning_of_the_prompt(prompts, size):
    cache = PrefixCache(size)
    for prompt in prompts:
        start = Start([*range(9), *prompt])
        short = cache.shortened(start)
        beginning = start.ids[: len(start.ids) - len(short.ids)]
        assert [*beginning, *short.ids] == start.ids
        assert short.position == len(beginning)
        assert short.ids
        if beginning:
            assert short.kept.keys[0].flatten().tolist() == beginning
            assert len(beginning) >= 16
        cache.keep(start, kept(*start.ids[:-1]))
        assert cache.tokens <= size
        again = cache.shortened(start)
        assert len(again.ids) == 1 or len(start.ids) - 1 > size


def test_the_prompts_used_least_recently_go_first():
    one, two, three = ([100 * k + i for i in range(20)] for k in (1, 2, 3))
    cache = PrefixCache(40)
    cache.keep(Start([*one, 0]), kept(*one))
    cache.keep(Start([*two, 0]), kept(*two))
    assert cache.shortened(Start([*one, 5])).position == 20
    cache.keep(Start([*three, 0]), kept(*three))
    assert [cache.shortened(Start([*each, 5])).position for each in (one, two, three)] == [20, 0, 20]
    cache.clear()
    assert cache.tokens == 0


def test_what_is_no_prompt_of_its_own_or_damaged_is_not_kept():
    cache, ids = PrefixCache(100), [*range(20)]
    cache.keep(Start([*ids, 0], kept(1, 2), 2), kept(1, 2, *ids))
    cache.keep(Start([*ids, 0]), kept(*ids[:-1], torch.nan))
    cache.keep(Start([1, 2, 3]), kept(1, 2))
    assert cache.tokens == 0
    cache.keep(Start([*ids, 0]), kept(*ids))
    after_gist = Start([*ids, 0], kept(1, 2), 2)
    assert cache.shortened(after_gist) is after_gist
