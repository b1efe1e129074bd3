"""The prompts of requests in tokens: texts, token ids, and conversations in the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmsteer.data.chats import Chat, Message
from lmsteer.errors import DataError
from lmsteer.model.chat import encode_chat
from lmsteer.model.lm import LM
from lmsteer.serving.http.errors import RequestError

Prompt = str | list[str] | list[int] | list[list[int]]


def encode_prompt(lm: LM, prompt: Prompt, *, special: bool = True) -> tuple[list[list[int]], list[str]]:
    """The token ids of each prompt of a request for a completion, and its text.

    Special tokens that are written out in a text are special tokens: a client that applies a chat template itself
    sends them.

    Args:
        lm: the model.
        prompt: the prompt, or several.
        special: whether the tokenizer puts its own special tokens around a text.

    Raises:
        RequestError: a prompt has no tokens, or one that the model cannot read.
    """
    prompts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else [*prompt]
    texts = [each for each in prompts if isinstance(each, str)]
    try:
        ids = lm.encode(texts, special=special) if texts else prompts
        for each in ids:
            lm.codec.check(each, "the prompt")
    except DataError as error:
        raise RequestError(str(error), param="prompt") from error
    if not all(ids):
        message = "the prompt is empty, or the tokenizer finds no token in it: write at least one word."
        raise RequestError(message, param="prompt")
    return ids, texts or [lm.codec.decode(each, skip_special=False) for each in ids]


def encode_messages(lm: LM, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a conversation in the model's chat template, up to where the answer begins.

    Args:
        lm: the model.
        messages: a role and a content each.

    Raises:
        RequestError: there is no template, it refuses the messages or makes no text of them, or a message has a token
            that the model cannot read.
    """
    if not lm.tokenizer.chat_template:
        raise RequestError(f"{lm.name} has no chat template: use /v1/completions.", param="messages")
    try:
        return encode_chat(lm.codec, Chat(tuple(Message(each["role"], each["content"]) for each in messages)))
    except DataError as error:
        raise RequestError(str(error), param="messages") from error
