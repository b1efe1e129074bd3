"""The prompts of requests in tokens: texts, token ids, and conversations in the model's chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import filterfalse
from typing import Any

from lmsteer.errors import DataError
from lmsteer.model.codec import Codec
from lmsteer.model.lm import LM
from lmsteer.serving.http.errors import RequestError

Prompt = str | list[str] | list[int] | list[list[int]]
# Characters without a meaning of their own, which stand for special tokens that a user has written.
_MARKS = range(0xE000, 0xF8FF)


def encode_prompt(lm: LM, prompt: Prompt) -> tuple[list[list[int]], list[str]]:
    """The token ids of each prompt of a request for a completion, and its text.

    Special tokens that are written out in a text are special tokens: a client that applies a chat template itself
    sends them.

    Raises:
        RequestError: a prompt has no tokens, or one that the model cannot read.
    """
    prompts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else [*prompt]
    texts = [each for each in prompts if isinstance(each, str)]
    try:
        ids = lm.encode(texts) if texts else prompts
        for each in ids:
            lm.codec.check(each, "the prompt")
    except DataError as error:
        raise RequestError(str(error), param="prompt") from error
    if not all(ids):
        message = "the prompt is empty, or the tokenizer finds no token in it: write at least one word."
        raise RequestError(message, param="prompt")
    return ids, texts or [lm.codec.decode(each, skip_special=False) for each in ids]


def encode_chat(lm: LM, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a conversation in the model's chat template, up to where the answer begins.

    Special tokens that are written out in a message are plain text, as far as the tokenizer can tell the difference:
    nobody ends a turn, or begins one in another role, by what they write.

    Args:
        lm: the model.
        messages: a role and a content each.

    Raises:
        RequestError: there is no template, it refuses the messages or makes no text of them, or a message has a token
            that the model cannot read.
    """
    marks = _marks(lm.codec, "".join(message["content"] for message in messages))
    text = _apply_template(lm, [{**each, "content": _replaced(each["content"], marks)} for each in messages])
    written = {mark: token for token, mark in marks.items()}
    try:
        if not marks:
            ids = lm.encode([text], special=False)[0]
        else:
            runs = _runs(lm.codec, text, written)
            ids = [each for run, literal in runs for each in lm.codec.encode([run], special=False, literal=literal)[0]]
    except DataError as error:
        raise RequestError(str(error), param="messages") from error
    if not ids:
        raise RequestError(f"the chat template of {lm.name} makes no text of these messages.", param="messages")
    return ids


def _apply_template(lm: LM, messages: list[dict[str, str]]) -> str:
    if not lm.tokenizer.chat_template:
        raise RequestError(f"{lm.name} has no chat template: use /v1/completions.", param="messages")
    try:
        text = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and refuses roles and orders by any exception
        reason = str(error) or type(error).__name__
        raise RequestError(f"the chat template refuses these messages: {reason}", param="messages") from error
    return str(text)


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
