"""Word 1- and 2-grams, hashed: features of a text for a linear classifier, without a vocabulary to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import torch
from torch import Tensor

BUCKETS = 1 << 20
# Of a text of n grams each counts n^-¼ (docs/log.md, "Scorers"); n^-½ would make all texts equally long vectors.
_SHRINKAGE = 0.25
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def buckets(text: str) -> list[int]:
    """Where the different words and pairs of words of a text fall among ``BUCKETS``, whatever their case, in order."""
    words = _WORD.findall(text.casefold())
    grams = {*words, *(f"{one} {two}" for one, two in pairwise(words))}
    return sorted({crc32(gram.encode()) % BUCKETS for gram in grams})


def size(grams: int) -> float:
    """What each gram of a text with so many counts: less in a long text, yet more in all."""
    return grams**-_SHRINKAGE


def ngram_logits(texts: Sequence[str], weights: Tensor, bias: float) -> Tensor:
    """Log-odds (N,) of texts under weights (BUCKETS,) of their grams."""
    found = torch.full((len(texts),), bias, dtype=torch.float64)
    for i, text in enumerate(texts):
        if places := buckets(text):
            found[i] += weights[places].double().sum() * size(len(places))
    return found
