"""Batches of like length."""

from __future__ import annotations

import random

from lmsteer.model.length_grouped import LengthGroupedSampler


def test_batches_are_of_like_lengths_and_all_examples_come():
    lengths = [random.Random(k).randrange(5, 50) for k in range(50)]
    sampler = LengthGroupedSampler(lengths, 8, 0)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(50))
    spreads = [max(part) - min(part) for part in ([lengths[i] for i in first[k : k + 8]] for k in range(0, 48, 8))]
    assert max(spreads) < 15
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_no_examples_have_no_order():
    assert list(LengthGroupedSampler([], 8, 0)) == []
