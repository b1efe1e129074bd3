"""Words: which characters of a text a token stands for, and which tokens make a word."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM

# What Python's \\w leaves out: signs that stand on, under and behind the letters of many scripts.
_MARKS = "".join(map(chr, (code for code in range(0x300, 0xFFFF) if unicodedata.category(chr(code))[0] == "M")))
# Letters, digits and what joins them; or other signs that follow each other.
_WORD = re.compile(rf"[\w{_MARKS}]+(?:['\u2019-][\w{_MARKS}]+)*|[^\w\s{_MARKS}]+")
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Word:
    """A word of a text, with the white space before it left out.

    Attributes:
        start: its first character, counted from 0.
        end: one past its last; ``start`` for a token that stands for no character.
        first: its first token, counted from 0.
        last: one past its last token.
    """

    start: int
    end: int
    first: int
    last: int


def is_word(text: str) -> bool:
    """Whether a text is letters only, with the marks that belong to them."""
    return text[:1].isalpha() and all(sign.isalpha() or unicodedata.category(sign)[0] == "M" for sign in text)


def encode_with_bounds(lm: LM, text: str) -> tuple[list[int], list[Bounds]]:
    """A text's ids as its tokenizer encodes it, and where in it each stands: first character, and one past the last.

    Raises:
        ModelError: the tokenizer cannot tell where its tokens stand.
    """
    if lm.tokenizer.is_fast:
        encoded = lm.tokenizer(text, add_special_tokens=True, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), [(start, end) for start, end in encoded["offset_mapping"]]
    (ids,) = lm.encode([text])
    pieces = [str(lm.tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in ids]
    if "".join(pieces) != text:
        raise ModelError(f"the tokenizer of {lm.name} ({type(lm.tokenizer).__name__}) cannot tell where tokens stand.")
    ends = list(accumulate(map(len, pieces)))
    return ids, list(zip([0, *ends], ends, strict=False))


def encode_to_read(lm: LM, text: str) -> tuple[list[int], list[Bounds]]:
    """A text's ids between the token that the model starts from and the one that ends texts, as a steer reads it.

    Returns:
        The ids, none if there is nothing to read; and where all but the first of them stand in the text.

    Raises:
        ModelError: the tokenizer cannot tell where its tokens stand.
    """
    ids, bounds = encode_with_bounds(lm, text) if text.strip() else ([], [])
    # Where the tokenizer, not the text, put a token first or last, it stands for no character.
    if ids[:1] == [lm.start_id] and bounds[0][0] == bounds[0][1]:
        ids, bounds = ids[1:], bounds[1:]
    end = lm.end_id
    if ids[-1:] == [end] and bounds[-1][0] == bounds[-1][1]:
        ids, bounds = ids[:-1], bounds[:-1]
    if not ids:
        return [], []
    if end is not None:
        ids, bounds = [*ids, end], [*bounds, (len(text), len(text))]
    return [lm.start_id, *ids], bounds


def words_of(text: str, bounds: Sequence[Bounds]) -> list[Word]:
    """Words by the tokens they are made of: every token is of one word, that which it begins in.

    A token that stands for no character (the end of the text, say) is a word of its own.

    Args:
        text: the text.
        bounds: of its tokens, in order.
    """
    starts = [match.start() for match in _WORD.finditer(text)]
    words: list[Word] = []
    before = -1
    for token, (start, end) in enumerate(bounds):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = max(start, start + len(text[start:end].rstrip()))
        place = bisect_right(starts, start) if start < end else -1
        if place < 0:  # white space, or no character: it stands where the text has come to
            start = end = max(min(start, end), words[-1].end if words else 0)
        if place == before and place >= 0:
            words[-1] = Word(words[-1].start, max(end, words[-1].end), words[-1].first, token + 1)
        else:
            words.append(Word(start, end, token, token + 1))
        before = place
    return words
