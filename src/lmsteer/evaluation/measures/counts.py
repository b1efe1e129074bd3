"""Words, sentences, syllables and listed phrases of a text: what measures are made of."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from lmsteer.util.records import parse_json

# Lists of phrases, by name.
PHRASES = files("lmsteer") / "assets" / "scorers" / "phrases.json"
# Letters and digits, with apostrophes and hyphens inside.
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
# Where a sentence ends: after its mark, and at the end of a line.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]”]*\s+|\n+")
_VOWELS = re.compile(r"[aeiouy]+")
# Endings that are written with a vowel and are no syllable, as in "named", "makes" and "stone", but not "table".
_SILENT = re.compile(r"(?:[^aeioutdy]ed|[^aeiouyscxzg]es|[^aeiouyl]e|[aeiouy]le)$")


def words(text: str) -> list[str]:
    """The words of a text in lower case; numbers are words, and so are contractions and compounds."""
    return _WORD.findall(text.lower().replace("’", "'"))


def sentences(text: str) -> list[str]:
    """The sentences of a text that have a word, with their marks; the last one may be cut short."""
    return [part.strip() for part in _SENTENCE_END.split(text) if _WORD.search(part)]


def syllables(word: str) -> int:
    """About how many syllables an English word in lower case has: groups of vowels, without a silent ending."""
    return max(1, len(_VOWELS.findall(word)) - bool(_SILENT.search(word)))


def occurrences(text: str, *lists: str) -> int:
    """How often the phrases of some lists stand in a text; the longest counts where several begin at one place.

    Args:
        text: the text; case does not matter.
        lists: names of lists in ``PHRASES``.
    """
    return len(_phrases(*lists).findall(" ".join(words(text))))


@cache
def _phrases(*lists: str) -> re.Pattern[str]:
    every = parse_json(PHRASES.read_bytes())
    longest_first = sorted({phrase for name in lists for phrase in every[name]}, key=len, reverse=True)
    return re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest_first))})(?!\S)")
