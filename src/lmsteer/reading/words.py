"""Words of a text, and the tokens that each is made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from lmsteer.model.codec import Bounds

# Letters with the marks on them (\p{M}) and numbers (\p{N}), with the signs that join them; or a run of other signs.
_WORD = regex.compile(r"[\w\p{M}\p{N}]+(?:['\u2019-][\w\p{M}\p{N}]+)*|[^\w\s\p{M}\p{N}]+")
_LETTERS = regex.compile(r"\p{L}[\p{L}\p{M}]*")


@dataclass(frozen=True)
class Word:
    """A word of a text, without the white space before it.

    Attributes:
        start: index of its first character.
        end: one past its last character; ``start`` for a token that covers no character.
        first: index of its first token.
        last: one past its last token.
    """

    start: int
    end: int
    first: int
    last: int


def is_word(text: str) -> bool:
    """Whether a text consists of letters and the marks on them, and starts with a letter."""
    return _LETTERS.fullmatch(text) is not None


def words_of(text: str, bounds: Sequence[Bounds]) -> list[Word]:
    """The words of a text by their tokens: every token belongs to one word, the one that it begins in.

    A token that covers no character (the end of the text, say) is a word of its own.

    Args:
        text: the text.
        bounds: the characters that its tokens cover, in order.
    """
    starts = [match.start() for match in _WORD.finditer(text)]
    words: list[Word] = []
    before = -1
    for token, (start, end) in enumerate(bounds):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = max(start, start + len(text[start:end].rstrip()))
        place = bisect_right(starts, start) if start < end else -1
        if place < 0:  # white space, or no character: it stands where the words before it end
            start = end = max(min(start, end), words[-1].end if words else 0)
        if place == before and place >= 0:
            words[-1] = Word(words[-1].start, max(end, words[-1].end), words[-1].first, token + 1)
        else:
            words.append(Word(start, end, token, token + 1))
        before = place
    return words
