"""OpenAI's response bodies for completions and chats, whole or chunk by chunk."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.answer import FINISH, Answer
from lmsteer.serving.http.errors import error_response
from lmsteer.serving.http.schema.responses import ChatCompletion, Completion, ErrorBody, Usage
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames


class OpenAIAnswer(Answer):
    """The answer to a request for a completion or a chat.

    Args:
        names: the texts of tokens.
        model: the model's name in the response.
        parsed: the request.
        chat: whether it is a chat.
        usage: whether a stream ends with the token counts.
    """

    def __init__(self, names: TokenNames, model: str, parsed: ParsedRequest, *, chat: bool, usage: bool) -> None:
        super().__init__(names, model, parsed)
        self._chat, self._usage_wanted = chat, usage
        self._started: set[int] = set()
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self) -> Completion | ChatCompletion:
        """The response without streaming."""
        return self._body([self._choice(i, choice) for i, choice in enumerate(self.choices)], self._usage)

    def delta(self, index: int, chunk: Chunk) -> Iterator[Completion | ChatCompletion]:
        """One body, unless nothing of the chunk is to be seen."""
        self.note(index, chunk)
        if chunk.text or chunk.finish or chunk.logprob or chunk.reading or chunk.prompt is not None:
            first = index not in self._started
            self._started.add(index)
            yield self._body([self._choice(index, Choice.of(chunk), delta=True, first=first)], None)

    def closing(self) -> Iterator[Completion | ChatCompletion]:
        """The token counts, for clients that asked for them."""
        if self._usage_wanted:
            yield self._body([], self._usage)

    def failure(self, error: LMSteerError) -> ErrorBody:
        """The error as in a response of its own."""
        return error_response(error)[1]

    @property
    def _usage(self) -> Usage:
        new, prompt = self.new_tokens, self.parsed.prompt_tokens
        details = {"cached_tokens": self.cached_tokens}
        return Usage(
            prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new, prompt_tokens_details=details
        )

    def _choice(self, index: int, choice: Choice, *, delta: bool = False, first: bool = False) -> dict[str, Any]:
        common: dict[str, Any] = {"index": index, "finish_reason": FINISH[choice.finish]}
        if (readings := self.readings(choice)) is not None:
            common["readings"] = readings
        logprobs = self.logprobs[index]
        if not self._chat:
            text = (self.parsed.echoed[index] if first or not delta else "") + choice.text
            return {**common, "text": text, "logprobs": logprobs.completion(choice) if self.with_logprobs else None}
        message: dict[str, Any] = {"content": choice.text}
        if first or not delta:
            message = {"role": "assistant", **message, "refusal": None}
        lines = {"content": [*logprobs.chat(choice)], "refusal": None} if self.with_logprobs else None
        return {**common, "delta" if delta else "message": message, "logprobs": lines}

    def _body(self, choices: list[dict[str, Any]], usage: Usage | None) -> Completion | ChatCompletion:
        common: dict[str, Any] = {
            "id": self._id,
            "created": self._created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            **self.steering,
        }
        if not self._chat:
            return Completion(**common)
        delta = any("delta" in choice for choice in choices) or not choices
        return ChatCompletion(object="chat.completion.chunk" if delta else "chat.completion", **common)
