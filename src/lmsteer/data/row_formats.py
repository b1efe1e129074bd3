"""The formats of rows of labelled texts, which are recognised by their columns.

========================  ==============================================================
columns                   what they are
========================  ==============================================================
text, label               a text by itself
prompt, completion,       a text after a prompt
label
messages, label           a conversation, whose last turn of the assistant is the text
chosen, rejected          a pair: a text of label +1 and one of label -1, after the same
                          ``prompt``; without that column, after what both begin with
========================  ==============================================================

Names and forms are those of TRL: prompts, completions and both texts of a pair may be strings or lists of messages. In
CSV files a list of messages is written as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lmsteer.data.cells import TableRow, cell, has_column, text_value
from lmsteer.data.chats import Chat, Prompt, prompt_json, read_value
from lmsteer.errors import DataError

# What an annotator says of a label that is proposed (Prodigy), unless it holds.
_NOT_ACCEPTED = ("reject", "ignore")
_ADVICE = (
    "Labelled texts are rows of text and label; of prompt, completion and label; of messages and label; or pairs of "
    "chosen and rejected. Choose the columns of texts and labels with --text-column and --label-column. "
)


@dataclass(frozen=True)
class Example:
    """A text of a row.

    Attributes:
        text: the text.
        label: its label as it stands in the row; +1 or -1 in a pair.
        prompt: what stands before it; None if nothing does.
        group: what both texts of a pair have in common; empty for others.
    """

    text: str
    label: Any
    prompt: Prompt | None = None
    group: str = ""


@dataclass(frozen=True)
class Columns:
    """The columns that a user has chosen.

    Attributes:
        text: the column of texts.
        label: the column of labels.
    """

    text: str = "text"
    label: str = "label"


Reader = Callable[[str, TableRow, Columns], tuple[Example, ...]]


@dataclass(frozen=True)
class RowFormat:
    """A format of rows.

    Attributes:
        title: what it is called in a message.
        columns: the columns by which it is known, besides that of labels.
        is_labelled: whether there is a column of labels.
        read: the examples of a row, given its place and the columns that the user has chosen.
    """

    title: str
    columns: tuple[str, ...]
    is_labelled: bool
    read: Reader


def row_format(place: str, row: TableRow, columns: Columns) -> RowFormat:
    """The format of a row.

    Raises:
        DataError: the row has no format, or it may have several.
    """
    plain = RowFormat("a text", (columns.text,), True, _plain)
    if columns.text != Columns.text:
        return plain
    formats = [each for each in (plain, *_PROMPTED) if all(has_column(place, row, name) for name in each.columns)]
    if has_column(place, row, columns.label):
        complete = formats
    else:
        complete = [each for each in formats if not each.is_labelled] or formats
    if len(complete) > 1:
        names = " or ".join(f"{each.title} ({', '.join(each.columns)})" for each in complete)
        raise DataError(f"{place}: the columns may mean {names}; remove or rename the columns that are not meant.")
    return complete[0] if complete else plain


def _plain(place: str, row: TableRow, columns: Columns) -> tuple[Example, ...]:
    text, label = (cell(place, row, column, advice=_ADVICE) for column in (columns.text, columns.label))
    if "answer" not in (columns.text, columns.label) and has_column(place, row, "answer"):
        answer = cell(place, row, "answer")
        if answer in _NOT_ACCEPTED:
            raise DataError(
                f"{place}: the annotator's answer is {answer!r}, so the label does not hold; keep the rows that were "
                "accepted, and remove the column 'answer'."
            )
    return (Example(text_value(place, "text", text), label),)


def _completion(place: str, row: TableRow, columns: Columns) -> tuple[Example, ...]:
    return (replace(unlabelled(place, row, "completion"), label=cell(place, row, columns.label, advice=_ADVICE)),)


def _messages(place: str, row: TableRow, columns: Columns) -> tuple[Example, ...]:
    return (replace(unlabelled(place, row, "messages"), label=cell(place, row, columns.label, advice=_ADVICE)),)


def unlabelled(place: str, row: TableRow, column: str) -> Example:
    """The text and the prompt of a row with the column ``completion`` or ``messages``, without its label.

    Raises:
        DataError: the row has no prompt, or its text does not follow it.
    """
    value = read_value(place, column, cell(place, row, column, advice=_ADVICE))
    if column == "completion":
        before = _prompt_of(place, read_value(place, "prompt", cell(place, row, "prompt", advice=_ADVICE)))
        return Example(_answer(place, column, before, value), None, before)
    if not isinstance(value, Chat):
        raise DataError(f"{place}: the messages are a string; write a list of objects with 'role' and 'content'.")
    if not value.is_of_assistant:
        raise DataError(
            f"{place}: the last message is of the role {value.messages[-1].role!r}, but the text is the last turn of "
            "the assistant; add it, or remove the row."
        )
    return Example(value.messages[-1].content, None, _before_answer(place, column, value))


def _pair(place: str, row: TableRow, columns: Columns) -> tuple[Example, ...]:
    sides = {name: read_value(place, name, cell(place, row, name)) for name in ("chosen", "rejected")}
    kinds = {name: isinstance(value, Chat) for name, value in sides.items()}
    if len(set(kinds.values())) > 1:
        chat, text = sorted(kinds, key=lambda name: not kinds[name])
        raise DataError(
            f"{place}: the {chat} text is a list of messages, but the {text} one a string; write both alike."
        )
    given = read_value(place, "prompt", cell(place, row, "prompt")) if has_column(place, row, "prompt") else None
    # A prompt that is a string beside whole conversations repeats what they begin with, as in many datasets of the Hub.
    if given is None or (isinstance(given, str) and kinds["chosen"]):
        prompt, texts = _shared_prompt(place, sides["chosen"], sides["rejected"])
    else:
        prompt = _prompt_of(place, given)
        texts = [_answer(place, name, prompt, value) for name, value in sides.items()]
    content = json.dumps([None if prompt is None else prompt_json(prompt), *texts]).encode()
    group = hashlib.sha256(content).hexdigest()
    return tuple(Example(text, label, prompt, group) for text, label in zip(texts, (1.0, -1.0), strict=True))


_PROMPTED = (
    RowFormat("a text after a prompt", ("completion",), True, _completion),
    RowFormat("a conversation", ("messages",), True, _messages),
    RowFormat("a pair", ("chosen", "rejected"), False, _pair),
)


def _prompt_of(place: str, prompt: Prompt) -> Prompt | None:
    """A prompt that an answer can follow; None for an empty one."""
    if isinstance(prompt, Chat) and prompt.is_of_assistant:
        raise DataError(f"{place}: the prompt ends with a turn of the assistant, which the text cannot answer.")
    return prompt or None


def _answer(place: str, column: str, prompt: Prompt | None, value: Prompt) -> str:
    """The text of a completion, which may be one message of the assistant."""
    if isinstance(value, str):
        return value
    if not isinstance(prompt, Chat):
        raise DataError(f"{place}: the {column} is a list of messages, but the prompt is a string; write both alike.")
    if len(value.messages) != 1 or not value.is_of_assistant:
        roles = ", ".join(message.role for message in value.messages)
        raise DataError(f"{place}: the {column} must be one message of the assistant; its messages are of: {roles}.")
    return value.messages[0].content


def _before_answer(place: str, column: str, chat: Chat) -> Chat:
    """A conversation without its last message."""
    if len(chat.messages) < 2:
        raise DataError(f"{place}: the {column} have no turn before that of the assistant.")
    return Chat(chat.messages[:-1])


def _shared_prompt(place: str, chosen: Prompt, rejected: Prompt) -> tuple[Prompt | None, list[str]]:
    """What both texts of a pair begin with, and what is left of each."""
    if isinstance(chosen, str) or isinstance(rejected, str):
        assert isinstance(chosen, str)
        assert isinstance(rejected, str)
        if chosen == rejected:
            return None, [chosen, rejected]
        pairs = enumerate(zip(chosen, rejected, strict=False))
        end = next((place for place, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
        end = len(re.sub(r"\s*\S*\Z", "", chosen[:end]))  # a word is not cut; the space before it is the text's
        return chosen[:end] or None, [chosen[end:], rejected[end:]]
    for name, chat in (("chosen", chosen), ("rejected", rejected)):
        if not chat.is_of_assistant:
            raise DataError(f"{place}: the {name} conversation does not end with a turn of the assistant.")
    prompt = _before_answer(place, "chosen messages", chosen)
    if _before_answer(place, "rejected messages", rejected) != prompt:
        raise DataError(
            f"{place}: the chosen and the rejected conversation differ before their last turn; only the last turn of "
            "the assistant may differ."
        )
    return prompt, [chosen.messages[-1].content, rejected.messages[-1].content]
