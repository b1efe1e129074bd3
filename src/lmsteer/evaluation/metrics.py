"""Metrics of generated text that need no model: its variety, and how much it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

# Text is degenerate if its share of repeated runs of three words exceeds that of unsteered text by more than this.
_DEGENERATE = 0.01
_RUN = 3


def distinct(texts: Sequence[str], n: int) -> float:
    """dist-n of the continuations of one prompt: number of different n-grams per word (Li et al., 2016).

    Words are split at white space. The divisor is the number of words, not of n-grams, as in the published protocol
    (Liu et al., DExperts, 2021).

    Returns:
        From 0 (all the same) to 1; nan if there are no words.
    """
    words = [text.split() for text in texts]
    different = {gram for line in words for gram in _grams(line, n)}
    total = sum(map(len, words))
    return len(different) / total if total else float("nan")


def rep_3(text: str) -> float:
    """Share of a text's runs of three words that repeat an earlier one, ignoring case: 0 to 1."""
    grams = _grams(text.casefold().split(), _RUN)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_degenerate(repeated: float, unsteered: float) -> bool:
    """Whether text repeats itself clearly more than unsteered text, by the mean ``rep_3`` of each."""
    return repeated > unsteered + _DEGENERATE


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(n)), strict=False))
