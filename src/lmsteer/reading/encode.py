"""Encoding of texts that a model reads: the one place that decides which tokens stand before and after a text.

``encode`` gives the ids of texts, ``encode_with_offsets`` also the characters that each token covers; texts after
prompts are encoded in ``prompted``. Two choices are the caller's:

- ``start``: whether the text stands after the model's start token. With it the first word of a text is predicted, too,
  and so counts: ``analyse`` reads so. A fit reads without it, because the hidden state of the start token is the same
  for all texts.
- ``end``: whether the end-of-text token follows the text. Its likelihood is part of the text's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmsteer.model.codec import Bounds
from lmsteer.model.lm import LM


class Encoding(NamedTuple):
    """A text in tokens.

    Attributes:
        ids: the token ids.
        bounds: the characters that each token covers: its first, and one past its last. Both are equal for a token
            that covers no character, such as the start and the end of a text.
    """

    ids: list[int]
    bounds: list[Bounds]


def start_tokens(lm: LM) -> list[int]:
    """The tokens to put before the ids of a text for it to start with the model's start token.

    There are none if the tokenizer puts the start token there itself.
    """
    return [] if lm.encode(["a"])[0][:1] == [lm.start_id] else [lm.start_id]


def end_tokens(lm: LM) -> list[int]:
    """The tokens to put after the ids of a text that is read to its end: the end-of-text token, if there is one.

    Raises:
        DataError: the model cannot read the tokenizer's end-of-text token.
    """
    ids = [] if lm.end_id is None else [lm.end_id]
    lm.codec.check(ids, "the end of each text")
    return ids


def ends_itself(lm: LM) -> bool:
    """Whether the tokenizer puts the end-of-text token after a text."""
    return lm.encode(["a"])[0][-1:] == [lm.end_id]


def encode(lm: LM, texts: Sequence[str], *, start: bool, end: bool) -> list[list[int]]:
    """The ids of texts. Special tokens that are written out in a text are text: start and end are still put around it.

    Args:
        lm: the model.
        texts: the texts.
        start: whether to put the model's start token before each text. If False, a text starts as the tokenizer
            encodes it.
        end: whether to put the end-of-text token after each text, if the tokenizer has one and does not do so itself.

    Raises:
        DataError: a text that holds half of a surrogate pair, or a token that the model cannot read.
    """
    before = start_tokens(lm) if start else []
    after = end_tokens(lm) if end and not ends_itself(lm) else []
    return [[*before, *ids, *after] for ids in lm.encode(texts)]


def encode_with_offsets(lm: LM, text: str, *, start: bool, end: bool) -> Encoding:
    """The ids of a text, and the characters that they cover; both empty for a text without a token of its own.

    Special tokens that are written out in the text are text: the start and the end are still put around them.

    Args:
        lm: the model.
        text: the text.
        start: as in ``encode``.
        end: as in ``encode``.

    Raises:
        DataError: as ``encode``.
        ModelError: the tokenizer cannot tell which characters its tokens cover.
    """
    ids, bounds = lm.codec.encode_with_offsets(text) if text.strip() else ([], [])
    eos = lm.end_id
    # Where the tokenizer, not the text, put a token first or last, it covers no character.
    starts = ids[:1] == [lm.start_id] and bounds[0][0] == bounds[0][1]
    ends = len(ids) > starts and ids[-1] == eos and bounds[-1][0] == bounds[-1][1]
    if len(ids) == starts + ends:
        return Encoding([], [])
    if ends:
        ids, bounds = ids[:-1], bounds[:-1]
    before = start_tokens(lm) if start else []
    after = end_tokens(lm) if end or ends else []
    behind = (len(text), len(text))
    return Encoding([*before, *ids, *after], [*[(0, 0) for _ in before], *bounds, *[behind for _ in after]])
