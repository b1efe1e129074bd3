"""The thinking part of a chat's answer: which marks delimit it, and which token of a continuation stands inside.

The marks are those that the chat template names, or the tokenizer has as tokens of their own: ``</think>`` and its
like, and the same without the slash. They are found in the text, not among the tokens, so that it does not matter how
a tokenizer cuts them. A state is how much of the mark that comes next has been read; a token takes each state to
another one. So a step on the device looks the next state up in a table, and copies nothing to the host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmsteer.data.chats import Chat, Prompt
from lmsteer.errors import DataError
from lmsteer.model.chat import opening_of
from lmsteer.model.codec import shortened
from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.steer.window import Part

_CLOSES = re.compile(r"([<\[])/((?:think(?:ing)?|thoughts?|reason(?:ing)?)[>\]])", re.IGNORECASE)


class Marks(NamedTuple):
    """What stands before and after the thinking part, such as <think> and </think>."""

    opens: str
    closes: str

    def after(self, state: int, text: str) -> int:
        """The state after a text. States below ``len(opens)`` are outside, the others inside."""
        for character in text:
            is_inside = state >= len(self.opens)
            mark, read = (self.closes, state - len(self.opens)) if is_inside else (self.opens, state)
            # The first character of a mark stands nowhere else in it.
            read = read + 1 if character == mark[read] else int(character == mark[0])
            state = (0 if read == len(mark) else len(self.opens) + read) if is_inside else read
        return state

    @property
    def states(self) -> int:
        """The number of states."""
        return len(self.opens) + len(self.closes)


@dataclass(frozen=True, eq=False)
class Thinking:
    """The thinking part of one model's answers.

    Attributes:
        marks: what stands before and after it.
        table: the state (states, V) after each token, by the state before it, on the CPU.
    """

    marks: Marks
    table: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> Tensor:
        """The table on a device, copied there when it is first needed."""
        if device not in self._copies:
            self._copies[device] = self.table.to(device)
        return self._copies[device]

    @property
    def first_inside(self) -> int:
        """The first of the states inside."""
        return len(self.marks.opens)

    def state_after(self, is_inside: bool, tokens: Iterable[int]) -> int:
        """The state after some tokens of a continuation, which begins inside the thinking part or outside."""
        state, read = self.first_inside if is_inside else 0, [token for token in tokens if token >= 0]
        # A look at one element of a tensor takes as long as a thousand of a list.
        for after in self.table.T[read].tolist() if read else ():
            state = after[state]
        return state


_FOUND = WeakKeyDictionary[PreTrainedTokenizerBase, Thinking]()


def thinking_of(lm: LM) -> Thinking:
    """The thinking part of a model's answers.

    Raises:
        DataError: neither its chat template nor its tokenizer knows of one.
    """
    if lm.tokenizer not in _FOUND:
        added = {token: text for text, token in lm.tokenizer.get_added_vocab().items()}
        marks = _marks([str(lm.tokenizer.chat_template or ""), *added.values()])
        if marks is None:
            raise DataError(
                f"the chat template of {lm.name} has no thinking part (it names no mark like </think>), so that the "
                "whole text is the answer: leave @answer and @thinking out."
            )
        _FOUND[lm.tokenizer] = Thinking(marks, _table(marks, token_texts(lm), added))
    return _FOUND[lm.tokenizer]


def begins_thinking(lm: LM, prompt: Prompt, parts: Collection[Part]) -> bool:
    """Whether an answer begins inside the thinking part, because the template opens it.

    Args:
        lm: the model.
        prompt: the chat that is answered.
        parts: the parts in which steers act, of those that act in one alone; without any, False is the answer.

    Raises:
        DataError: the prompt is no chat, ``thinking_of`` refuses the model, or steers are to act in a thinking part
            that the template closes before the answer.
    """
    if not parts:
        return False
    thinking = thinking_of(lm)
    if not isinstance(prompt, Chat):
        which = f" ({shortened(prompt)})" if prompt else ""
        raise DataError(f"@answer and @thinking act on the answers of chats: a plain prompt{which} has no such parts.")
    opening = opening_of(lm.codec, prompt)
    is_inside = thinking.marks.after(0, opening) >= thinking.first_inside
    if "thinking" in parts and thinking.marks.closes in opening and not is_inside:
        raise DataError(
            f"the chat template of {lm.name} closes the thinking part before the answer begins: there would be no "
            "token for @thinking to act on."
        )
    return is_inside


def _marks(texts: Iterable[str]) -> Marks | None:
    """The marks that texts name; the first that they name."""
    found = next(filter(None, map(_CLOSES.search, texts)), None)
    return None if found is None else Marks(found[1] + found[2], found[0])


def _table(marks: Marks, texts: list[str], added: Mapping[int, str]) -> Tensor:
    """The state after each token, by the state before it."""
    outside = len(marks.opens)
    starts = torch.tensor([0] * outside + [outside] * len(marks.closes))
    table = starts[:, None].to(torch.int8).repeat(1, len(texts))
    expected = [*marks.opens, *marks.closes]
    for token, text in enumerate(texts):
        text = added.get(token, text)
        if not text:
            table[:, token] = torch.arange(marks.states)
            continue
        # A text without the first character of a mark can only continue the mark that is being read.
        begins = marks.opens[0] in text or marks.closes[0] in text
        for state in range(marks.states):
            if begins or text[0] == expected[state]:
                table[state, token] = marks.after(state, text)
    return table
