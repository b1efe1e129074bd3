"""Batches hold every text once, within their size."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.model.batching import length_buckets, pad


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_every_text_is_in_one_batch_that_fits(lengths, tokens):
    ids = [[0] * n for n in lengths]
    batches = list(length_buckets(ids, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(ids)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= tokens for b in batches)


def test_padding_is_on_the_right_and_masked():
    ids, mask = pad([[5, 6], [7]], 9, torch.device("cpu"))
    assert ids.tolist() == [[5, 6], [7, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]
