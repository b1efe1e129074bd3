"""Chats, and prompts: what may stand before a text, as plain text or as the messages of a conversation.

A message is an object with ``role`` and ``content``, as in the chat templates of tokenizers and in the data of TRL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lmsteer.data.cells import text_value
from lmsteer.data.json_rows import json_value
from lmsteer.errors import DataError

# How a list of messages begins that is written as JSON, and one that Python has written.
_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(?:role|content)"')
_PYTHON_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(?:role|content)'")
ROLES = ("system", "developer", "user", "assistant")
_INSTRUCTING = ("system", "developer")
# Fields of a message that ask for what is no text.
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks: one of ``ROLES``.
        content: what they say.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: its turns.
    """

    messages: tuple[Message, ...]

    @classmethod
    def of_user(cls, text: str, system: str | None = None) -> Chat:
        """A conversation in which the user says a text, after a system message if there is one."""
        before = () if system is None else (Message("system", system),)
        return cls((*before, Message("user", text)))

    @property
    def is_of_assistant(self) -> bool:
        """Whether the last turn is the assistant's."""
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def instructed(self, instruction: str) -> Chat:
        """The conversation with an instruction at the beginning of its system message, which is added if missing."""
        if not self.messages or self.messages[0].role not in _INSTRUCTING:
            return self.with_system(instruction.strip())
        first, *rest = self.messages
        return Chat((Message(first.role, f"{instruction.strip()}\n{first.content}"), *rest))

    def with_system(self, system: str) -> Chat:
        """The conversation with a system message, unless it has one of its own."""
        if self.messages and self.messages[0].role in _INSTRUCTING:
            return self
        return Chat((Message("system", system), *self.messages))

    def to_json(self) -> list[dict[str, str]]:
        """The messages as objects with ``role`` and ``content``."""
        return [{"role": message.role, "content": message.content} for message in self.messages]

    def __str__(self) -> str:
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)


Prompt = str | Chat
# A prompt as it may be given in Python: a conversation may be a list of messages.
AnyPrompt = Prompt | Sequence[Message | Mapping[str, Any]]


def as_prompt(value: AnyPrompt, place: str = "the prompt") -> Prompt:
    """A prompt as it may be given in Python.

    Args:
        value: a text, a chat, or a list of messages.
        place: where it stands, for messages.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(value, get_args(Prompt)):
        return value
    return read_chat(place, "prompt", value)


def as_chat(prompt: Prompt, system: str | None = None) -> Chat:
    """A prompt as a conversation: a text is a turn of the user. ``system`` goes to a conversation without one."""
    if isinstance(prompt, str):
        return Chat.of_user(prompt, system)
    return prompt if system is None else prompt.with_system(system)


def after_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """A prompt after an instruction: the words before a text, the beginning of a conversation's system message."""
    return instruction + prompt if isinstance(prompt, str) else prompt.instructed(instruction)


def prompt_json(prompt: Prompt) -> Any:
    """A prompt as JSON: a string, or a list of messages."""
    return prompt if isinstance(prompt, str) else prompt.to_json()


def read_value(place: str, column: str, value: Any) -> Prompt:
    """A cell that holds a text or a conversation, which may be written as JSON.

    Args:
        place: where the row stands.
        column: the name of the column.
        value: a string, or a list of messages.

    Raises:
        DataError: it is neither, or ``read_chat`` refuses it.
    """
    if isinstance(value, str) and _PYTHON_MESSAGES.match(value):
        raise DataError(f"{place}: the {column} is a list as Python writes it; write messages as JSON.")
    if isinstance(value, str) and (_MESSAGES.match(value) or column == "messages"):
        value = json_value(f"{place}, {column}", value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return text_value(place, column, value)
    return read_chat(place, column, value)


def read_chat(place: str, column: str, value: Any) -> Chat:
    """A conversation in a cell.

    Args:
        place: where the row stands.
        column: the name of the column.
        value: a list of messages.

    Raises:
        DataError: it is something else, there are no messages, or one has an unknown role, no text or no content.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise DataError(
            f"{place}: the {column} is {type(value).__name__}, not a list of messages; write messages as a list such "
            'as [{"role": "user", "content": ".."}].'
        )
    messages = [_message(f"{place}: message {i} of the {column}", message) for i, message in enumerate(value, 1)]
    if not messages:
        raise DataError(f"{place}: the {column} has no messages.")
    return Chat(tuple(messages))


def _message(place: str, value: Any) -> Message:
    if isinstance(value, Message):
        value = {"role": value.role, "content": value.content}
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        has = f"has {', '.join(map(repr, value)) or 'nothing'}" if isinstance(value, Mapping) else "is no object"
        raise DataError(f"{place} {has}; a message is an object with 'role' and 'content'.")
    if value["role"] not in ROLES:
        raise DataError(f"{place} has the role {value['role']!r:.60}; the roles are {', '.join(ROLES)}.")
    if calls := [name for name in _CALLS if value.get(name)]:
        raise DataError(f"{place} has {calls[0]}; texts without calls of tools can be read, so remove the row.")
    return Message(value["role"], _content(place, value["content"]))


def _content(place: str, content: Any) -> str:
    """The text of a message, which may be in parts."""
    if isinstance(content, str) or content is None:
        return text_value(place, "content", content)
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        raise DataError(f"{place} has a content that is {type(content).__name__}, not a string.")
    parts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(f"{place} has a part of type {kind!r}; only parts of type 'text' can be read.")
        parts.append(text_value(place, "text of a part", part.get("text")))
    return "".join(parts)
