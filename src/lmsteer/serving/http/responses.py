"""Builds OpenAI's response bodies for completions and chats, whole or chunk by chunk."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmsteer.model.lm import LM
from lmsteer.serving.engine.requests import Chunk, TokenLogprob
from lmsteer.serving.http.schema.responses import ChatCompletion, Completion, Usage
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames, TokenTexts

# OpenAI has no finish reason for a timeout: the text is reported as cut, and a warning says why.
_FINISH = {"stop": "stop", "length": "length", "timeout": "length", None: None}
# The decoded form of a part of a character.
_PARTIAL = "\N{REPLACEMENT CHARACTER}"
_TIMED_OUT = "the request timed out: the text is incomplete."


@dataclass
class ResponseBuilder:
    """Builds the response to one request.

    Attributes:
        lm: the model.
        model: the model's name in the response.
        parsed: the request.
        chat: whether it is a chat.
        choices: the sequences so far.
    """

    lm: LM
    model: str
    parsed: ParsedRequest
    chat: bool
    choices: list[Choice] = field(init=False)

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in self.parsed.requests]
        self._started: set[int] = set()
        self._names = TokenNames(self.lm.codec)
        self._texts = [TokenTexts(self.lm.codec, self._names, each) for each in self.parsed.echoed]
        self._id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        new, prompt = sum(choice.tokens for choice in self.choices), self.parsed.prompt_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)

    def whole(self) -> Completion | ChatCompletion:
        """The response without streaming."""
        return self._body([self._choice(i, choice) for i, choice in enumerate(self.choices)], self.usage)

    def delta(self, index: int, chunk: Chunk) -> Completion | ChatCompletion:
        """The next streamed body of one choice; the chunk is added to the choice."""
        first = index not in self._started
        self._started.add(index)
        self.choices[index].add(chunk)
        part = Choice()
        part.add(chunk)
        return self._body([self._choice(index, part, delta=True, first=first)], None)

    def final_usage(self) -> Completion | ChatCompletion:
        """The last streamed body, for clients that asked for the usage."""
        return self._body([], self.usage)

    def _choice(self, index: int, choice: Choice, *, delta: bool = False, first: bool = False) -> dict[str, Any]:
        common = {"index": index, "finish_reason": _FINISH[choice.finish]}
        with_logprobs = self.parsed.requests[index].num_logprobs is not None
        if not self.chat:
            text = (self.parsed.echoed[index] if first or not delta else "") + choice.text
            return {
                **common,
                "text": text,
                "logprobs": self._completion_logprobs(index, choice) if with_logprobs else None,
            }
        message: dict[str, Any] = {"content": choice.text}
        if first or not delta:
            message = {"role": "assistant", **message, "refusal": None}
        lines = {"content": [*self._chat_logprobs(index, choice)], "refusal": None} if with_logprobs else None
        return {**common, "delta" if delta else "message": message, "logprobs": lines}

    def _body(self, choices: list[dict[str, Any]], usage: Usage | None) -> Completion | ChatCompletion:
        timed_out = [_TIMED_OUT] if any(choice.finish == "timeout" for choice in self.choices) else []
        common: dict[str, Any] = {
            "id": self._id,
            "created": self._created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            "steers": dict(self.parsed.steering.strengths),
            "steered_tokens": sum(choice.steered for choice in self.choices),
            "warnings": [*self.parsed.steering.warnings, *timed_out],
        }
        if not self.chat:
            return Completion(**common)
        delta = any("delta" in choice for choice in choices) or not choices
        return ChatCompletion(object="chat.completion.chunk" if delta else "chat.completion", **common)

    def _completion_logprobs(self, index: int, choice: Choice) -> dict[str, list[Any]]:
        """Log-likelihoods in the format of completions: one list for each kind of value."""
        lines: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        texts = self._texts[index]

        def add(token: int, logprob: TokenLogprob | None, *, last: bool = False) -> None:
            lines["text_offset"].append(texts.offset)
            text = texts.add(token, last=last)
            lines["tokens"].append(self._shown(token, text))
            lines["token_logprobs"].append(None if logprob is None else _finite(logprob.log_p))
            # Tokens with the same text (parts of characters, say) share a key: the likeliest comes last and stays.
            top = None if logprob is None else reversed([*self._top(text, logprob)])
            lines["top_logprobs"].append(None if top is None else {self._shown(i, name): p for i, name, p in top})

        if choice.prompt is not None:
            ids = self.parsed.requests[index].ids
            for token, logprob in zip(ids, [None, *choice.prompt], strict=True):  # nothing predicts the first
                add(token, logprob)
            texts.end_prompt()
        for place, logprob in enumerate(choice.logprobs, 1):
            add(logprob.token, logprob, last=choice.finish is not None and place == len(choice.logprobs))
        return lines

    def _chat_logprobs(self, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
        """The log-likelihoods of tokens in the format of chats."""
        for place, logprob in enumerate(choice.logprobs, 1):
            last = choice.finish is not None and place == len(choice.logprobs)
            text = self._texts[index].add(logprob.token, last=last)
            top = [self._entry(*each) for each in self._top(text, logprob)]
            yield {**self._entry(logprob.token, text, _finite(logprob.log_p)), "top_logprobs": top}

    def _top(self, text: str, logprob: TokenLogprob) -> Iterator[tuple[int, str, float]]:
        """The likeliest tokens at the place of a token with this text: their ids, texts and log-likelihoods."""
        for token, log_p in logprob.top.items():
            yield token, text if token == logprob.token else self._names(token), _finite(log_p)

    def _entry(self, token: int, text: str, log_p: float) -> dict[str, Any]:
        # The bytes of a part of a character are not known here; null is allowed by OpenAI's format.
        as_bytes = None if _PARTIAL in text else list(text.encode())
        return {"token": self._shown(token, text), "logprob": log_p, "bytes": as_bytes}

    def _shown(self, token: int, text: str) -> str:
        """What a token with this text is called in the response."""
        return f"token_id:{token}" if self.parsed.tokens_as_ids else text


def _finite(log_p: float) -> float:
    """A number for JSON, which has no infinity; OpenAI uses the same number for it."""
    return log_p if math.isfinite(log_p) else -9999.0
