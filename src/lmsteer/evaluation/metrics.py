"""Metrics of generated text that need no model: how varied it is, and how much it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

# Text loops whose share of repeated runs of three words is more than this above unsteered text's.
_LOOPS = 0.1
_REPEATED = 3


def distinct(texts: Sequence[str], n: int) -> float:
    """dist-n of the continuations of one prompt: different n-grams of words among all words (Li et al., 2016).

    Words are what stands between blanks, and the sum is over words, not n-grams, as in the published protocol (Liu et
    al., DExperts, 2021).

    Returns:
        From 0 (one and the same again) to 1; nan where there are no words.
    """
    words = [text.split() for text in texts]
    different = {gram for line in words for gram in _grams(line, n)}
    total = sum(map(len, words))
    return len(different) / total if total else float("nan")


def rep_3(text: str) -> float:
    """Share of a text's runs of three words that it has had before, whatever their case: 1 says it loops."""
    grams = _grams(text.casefold().split(), _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_degenerate(repeated: float, unsteered: float) -> bool:
    """Whether text repeats itself clearly more than unsteered text does, by the repetition of each."""
    return repeated > unsteered + _LOOPS


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(n)), strict=False))
