"""Word 1- and 2-grams, hashed: features of a text for a linear classifier, without a vocabulary to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import torch
from torch import Tensor

BUCKETS = 1 << 18
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def buckets(text: str) -> list[int]:
    """Where the different words and pairs of words of a text fall among ``BUCKETS``, whatever their case, in order."""
    words = _WORD.findall(text.casefold())
    grams = {*words, *(f"{one} {two}" for one, two in pairwise(words))}
    return sorted({crc32(gram.encode()) % BUCKETS for gram in grams})


def ngram_logits(texts: Sequence[str], weights: Tensor, bias: float) -> Tensor:
    """Log-odds (N,) of texts under weights (BUCKETS,): of features of length 1 that weigh all grams of a text alike."""
    found = torch.full((len(texts),), bias, dtype=torch.float64)
    for i, text in enumerate(texts):
        if places := buckets(text):
            found[i] += weights[places].double().sum() / len(places) ** 0.5
    return found
