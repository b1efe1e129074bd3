"""Hashed word 1- and 2-grams: features of a text for a linear classifier that needs no vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import torch
from torch import Tensor

BUCKETS = 1 << 20
# Each gram of a text with n grams counts n^-¼ (docs/log.md, "Scorers"); n^-½ would give all texts unit length.
_SHRINKAGE = 0.25
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def buckets(text: str) -> list[int]:
    """The buckets, out of ``BUCKETS``, of the distinct words and pairs of words of a text; case is ignored. Sorted."""
    words = _WORD.findall(text.casefold())
    grams = {*words, *(f"{one} {two}" for one, two in pairwise(words))}
    return sorted({crc32(gram.encode()) % BUCKETS for gram in grams})


def size(grams: int) -> float:
    """The weight of each gram in a text of a number of grams: lower in a longer text, higher in sum."""
    return grams**-_SHRINKAGE


def ngram_logits(texts: Sequence[str], weights: Tensor, bias: float) -> Tensor:
    """Log-odds (N,) of texts under weights (BUCKETS,) of their grams, float64."""
    logits = torch.full((len(texts),), bias, dtype=torch.float64)
    for i, text in enumerate(texts):
        if places := buckets(text):
            logits[i] += weights[places].double().sum() * size(len(places))
    return logits
