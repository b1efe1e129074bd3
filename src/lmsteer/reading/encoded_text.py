"""Texts in tokens, which may stand after a prompt: which of the tokens are the text's own.

Functions that read texts take any sequence of ids; a plain one is a text without a prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from lmsteer.model.lm import LM


@dataclass(frozen=True, eq=False)
class EncodedText(Sequence[int]):
    """The token ids of a prompt and of the text after it, four bytes a token: all texts of a fit are held in memory.

    Attributes:
        ids: the ids.
        begin: the place of the text's first token; 0 for a text without a prompt.
        is_ended: whether the last token is the end of the text: its end-of-text token, or in a chat its end of turn.
    """

    ids: array[int]
    begin: int
    is_ended: bool

    @classmethod
    def of(cls, ids: Sequence[int], begin: int = 0, *, is_ended: bool) -> EncodedText:
        """A text of some ids."""
        return cls(array("i", ids), begin, is_ended)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self.ids[index]


def begin_of(ids: Sequence[int]) -> int:
    """The place of the text's first token: 0 without a prompt."""
    return ids.begin if isinstance(ids, EncodedText) else 0


def first_predicted(ids: Sequence[int]) -> int:
    """The place of the first token of a text that the model predicts: its first after a prompt, else its second."""
    return max(begin_of(ids), 1)


def count_predicted(ids: Sequence[int]) -> int:
    """The number of tokens of a text that the model predicts."""
    return max(len(ids) - first_predicted(ids), 0)


def is_ended(lm: LM, ids: Sequence[int]) -> bool:
    """Whether the last token of a text is its end."""
    return ids.is_ended if isinstance(ids, EncodedText) else bool(len(ids)) and ids[-1] == lm.end_id


def own_tokens(texts: Sequence[Sequence[int]]) -> Tensor:
    """Which of the tokens of some texts, all but the first of each, are the texts' own (N,), text by text."""
    return torch.cat([torch.arange(1, len(ids)) >= begin_of(ids) for ids in texts])
