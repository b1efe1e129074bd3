"""Chats in tokens, by the tokenizer's own template.

Special tokens that are written out in a message are plain text, as far as the tokenizer can tell the difference: nobody
ends a turn, or begins one in another role, by what they write. For the template's sake, marks stand for them: a
template may look for special tokens in messages, and whatever it does with the text around, it leaves marks alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import filterfalse, takewhile
from typing import NamedTuple

from lmsteer.data.chats import Chat, Message
from lmsteer.errors import DataError
from lmsteer.model.codec import Bounds, Codec, shortened

# Characters without a meaning of their own, which stand for special tokens that a user has written.
_MARKS = range(0xE000, 0xF8FF)


class Answer(NamedTuple):
    """A conversation with its answer in tokens.

    Attributes:
        prompt: the ids of all that the template writes before the answer.
        whole: the ids of the same with the answer and the token that ends its turn, if there is one.
        is_ended: whether there is one.
    """

    prompt: list[int]
    whole: list[int]
    is_ended: bool


def encode_chat(codec: Codec, chat: Chat) -> list[int]:
    """The token ids of a conversation, up to where the assistant's answer begins.

    Raises:
        DataError: there is no template, it refuses the messages or makes no text of them, or a message has a token
            that the model cannot read.
    """
    marks = _marks(codec, "".join(message.content for message in chat.messages))
    ids = _encode(codec, _render(codec, _marked(chat, marks), answered=False), marks)
    if not ids:
        raise DataError(f"the chat template of {codec.model} makes no text of these messages.")
    return ids


def opening_of(codec: Codec, chat: Chat) -> str:
    """What the template writes to begin the assistant's answer, after the conversation.

    Raises:
        DataError: as ``encode_chat``.
    """
    marked = _marked(chat, _marks(codec, "".join(message.content for message in chat.messages)))
    begun, alone = (_render(codec, marked, answered=answered) for answered in (False, True))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(begun, alone, strict=False))
    return begun[sum(1 for _ in same) :]


def encode_answer(codec: Codec, chat: Chat, answer: str) -> Answer:
    """The token ids of a conversation, of the answer after it, and of the end of the answer's turn.

    Where the template trims the white space around an answer, or writes something before it that the prompt of a new
    answer does not have, such as an empty thought, it is encoded so.

    Raises:
        DataError: as ``encode_chat``, or the template writes the conversation otherwise when an answer follows, so that
            the model would not read what it reads when it answers.
    """
    turn = _written_turn(codec, chat, answer)
    return Answer(
        _encode(codec, turn.head, turn.marks),
        _encode(codec, turn.head + turn.text + turn.end, turn.marks),
        bool(turn.end),
    )


def answer_bounds(codec: Codec, chat: Chat, answer: str) -> list[Bounds]:
    """The characters of the answer that each token of ``encode_answer`` covers; those before it cover none.

    Raises:
        DataError: as ``encode_answer``.
        ModelError: the tokenizer cannot tell which characters its tokens cover.
    """
    turn = _written_turn(codec, chat, answer)
    written = {mark: token for token, mark in turn.marks.items()}
    shift, bounds = turn.dropped - len(_replaced(turn.head, written)), list[Bounds]()
    for run, literal in _runs(codec, turn.head + turn.text + turn.end, written):
        _, own = codec.encode_with_offsets(run, special=False, literal=literal)
        bounds += [(start + shift, end + shift) for start, end in own]
        shift += len(run)
    last = turn.dropped + len(_replaced(turn.text, written))
    return [(min(max(start, 0), last), min(max(end, 0), last)) for start, end in bounds]


class _Turn(NamedTuple):
    """The turn of an answer as a template writes it; marks stand for special tokens that users have written.

    Attributes:
        head: all that stands before the answer.
        text: the answer.
        end: the special token that ends its turn, and white space before it.
        dropped: the number of characters that the template leaves out at the beginning of the answer.
        marks: the mark of each special token.
    """

    head: str
    text: str
    end: str
    dropped: int
    marks: Mapping[str, str]


def _written_turn(codec: Codec, chat: Chat, answer: str) -> _Turn:
    content = "".join(message.content for message in chat.messages) + answer
    marks = _marks(codec, content)
    there = next(filterfalse(content.__contains__, map(chr, reversed(_MARKS))))
    before = _marked(chat, marks)
    prompt = _render(codec, before, answered=False)
    whole = _render(codec, Chat((*before.messages, Message("assistant", there))), answered=True)
    head, found, tail = whole.partition(there)
    if not found or there in tail or not head.startswith(prompt):
        raise DataError(
            f"the chat template of {codec.model} writes the answer {shortened(answer)} otherwise than after the prompt "
            "of an answer, so that its tokens cannot be told from those before it; give prompts that are strings."
        )
    text, start = _replaced(answer, marks), 0
    if (inner := text.strip()) != text:
        start = text.index(inner)
        around = Message("assistant", text[:start] + there + text[start + len(inner) :])
        before_it, _, after_it = _render(codec, Chat((*before.messages, around)), answered=True).partition(there)
        kept = before_it.removeprefix(head)
        text, start = kept + inner + after_it.removesuffix(tail), start - len(kept)
    return _Turn(head, text, _end_of_turn(codec, tail), start, marks)


def _render(codec: Codec, chat: Chat, *, answered: bool) -> str:
    """A conversation as the template writes it, with the beginning of an answer if there is none yet."""
    if not codec.tokenizer.chat_template:
        raise DataError(f"{codec.model} has no chat template.")
    try:
        text = codec.tokenizer.apply_chat_template(chat.to_json(), tokenize=False, add_generation_prompt=not answered)
    except Exception as error:  # a template is a program, and refuses roles and orders by any exception
        raise DataError(f"the chat template refuses these messages: {str(error) or type(error).__name__}") from error
    return str(text)


def _encode(codec: Codec, text: str, marks: Mapping[str, str]) -> list[int]:
    """The ids of what a template has written, in which marks stand for special tokens."""
    if not marks:
        return codec.encode([text], special=False)[0]
    runs = _runs(codec, text, {mark: token for token, mark in marks.items()})
    return [each for run, literal in runs for each in codec.encode([run], special=False, literal=literal)[0]]


def _marked(chat: Chat, marks: Mapping[str, str]) -> Chat:
    return Chat(tuple(Message(message.role, _replaced(message.content, marks)) for message in chat.messages))


def _marks(codec: Codec, content: str) -> dict[str, str]:
    """A mark for each special token that is written out in a content, the longest first; the content has none."""
    tokens = sorted(
        {token for token in codec.special_tokens.values() if token and token in content}, key=len, reverse=True
    )
    return dict(zip(tokens, filterfalse(content.__contains__, map(chr, _MARKS)), strict=False))


def _replaced(text: str, by: Mapping[str, str]) -> str:
    for old, new in by.items():
        text = text.replace(old, new)
    return text


def _end_of_turn(codec: Codec, text: str) -> str:
    """The special token that a text begins with, and the white space before it; empty if there is none."""
    rest = text.lstrip()
    begins = [token for token in codec.special_tokens.values() if token and rest.startswith(token)]
    return text[: len(text) - len(rest)] + max(begins, key=len) if begins else ""


def _runs(codec: Codec, text: str, written: Mapping[str, str]) -> list[tuple[str, bool]]:
    """A text cut at its special tokens: parts to be tokenized as usual, and parts with marks, to be taken literally.

    Args:
        codec: the model's tokenizer.
        text: the text with marks.
        written: what the marks stand for.
    """
    tokens = sorted(filter(None, codec.special_tokens.values()), key=len, reverse=True)
    runs: list[tuple[str, bool]] = []
    for part in re.split(f"({'|'.join(map(re.escape, tokens))})", text):
        if any(mark in part for mark in written):
            runs.append((_replaced(part, written), True))
        elif runs and not runs[-1][1]:
            runs[-1] = (runs[-1][0] + part, False)
        else:
            runs.append((part, False))
    return runs
