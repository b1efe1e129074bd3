"""How answers are worded: OpenAI's bodies of completions and chats, whole or piece by piece, of the same parts."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lmsteer.model.lm import LM
from lmsteer.serving.engine.requests import Chunk, TokenLogprob
from lmsteer.serving.http.schema import ChatCompletion, Completion, Usage
from lmsteer.serving.http.service import Choice, Job

# No OpenAI client knows of an answer that ran out of time; it is one that was cut, and ``warnings`` says so.
_FINISH = {"stop": "stop", "length": "length", "timeout": "length", None: None}
# What a part of a character is decoded to.
_PART = "\N{REPLACEMENT CHARACTER}"
_LATE = "the time for an answer was over: it is cut short."


@dataclass
class ResponseBuilder:
    """The words of one request's answer.

    Attributes:
        lm: the model, whose tokens are told.
        model: its name.
        job: the request.
        chat: whether it is a conversation.
        choices: a row each, so far.
    """

    lm: LM
    model: str
    job: Job
    chat: bool
    choices: list[Choice] = field(init=False)

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in self.job.orders]
        self._begun: set[int] = set()
        self._id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        written = sum(choice.tokens for choice in self.choices)
        read = self.job.prompt_tokens
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def whole(self) -> Completion | ChatCompletion:
        """All of it."""
        return self._answer([self._choice(i, choice) for i, choice in enumerate(self.choices)], self.usage)

    def piece(self, place: int, piece: Chunk) -> Completion | ChatCompletion:
        """One row's next piece; the row takes it in."""
        first = place not in self._begun
        self._begun.add(place)
        self.choices[place].add(piece)
        part = Choice(piece.text, [piece.chosen] if piece.chosen else [], finish=piece.finish)
        return self._answer([self._choice(place, part, delta=True, first=first)], None)

    def last(self) -> Completion | ChatCompletion:
        """What a stream ends with if it is asked for its usage."""
        return self._answer([], self.usage)

    def _choice(self, place: int, choice: Choice, *, delta: bool = False, first: bool = False) -> dict[str, Any]:
        common = {"index": place, "finish_reason": _FINISH[choice.finish]}
        asked = self.job.orders[place].top is not None
        if not self.chat:
            return {**common, "text": choice.text, "logprobs": self._lists(choice.chosen) if asked else None}
        said: dict[str, Any] = {"content": choice.text}
        if first or not delta:
            said = {"role": "assistant", **said}
        told = {"content": [self._told(chosen) for chosen in choice.chosen]} if asked else None
        return {**common, "delta" if delta else "message": said, "logprobs": told}

    def _answer(self, choices: list[dict[str, Any]], usage: Usage | None) -> Completion | ChatCompletion:
        late = [_LATE] if any(choice.finish == "timeout" for choice in self.choices) else []
        common: dict[str, Any] = {
            "id": self._id,
            "created": self._created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            "steers": dict(self.job.dial.strengths),
            "steered_tokens": sum(choice.steered for choice in self.choices),
            "warnings": [*self.job.dial.warnings, *late],
        }
        if not self.chat:
            return Completion(**common)
        delta = any("delta" in choice for choice in choices) or not choices
        return ChatCompletion(object="chat.completion.chunk" if delta else "chat.completion", **common)

    def _lists(self, chosen: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Likelihoods of a completion."""
        tokens = [self._token(each.token) for each in chosen]
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(each.log_p) for each in chosen],
            # Of tokens with the same text, parts of characters say, the likeliest is told: the last one stays.
            "top_logprobs": [{self._token(k): _finite(v) for k, v in reversed([*each.top.items()])} for each in chosen],
        }

    def _told(self, chosen: TokenLogprob) -> dict[str, Any]:
        """Likelihoods of one token of a chat."""
        return {
            **self._line(chosen.token, chosen.log_p),
            "top_logprobs": [self._line(token, log_p) for token, log_p in chosen.top.items()],
        }

    def _line(self, token: int, log_p: float) -> dict[str, Any]:
        text = self._token(token)
        whole = _PART not in text  # OpenAI's clients know of tokens whose bytes are not told
        return {"token": text, "logprob": _finite(log_p), "bytes": list(text.encode()) if whole else None}

    def _token(self, token: int) -> str:
        return str(self.lm.tokenizer.decode([token]))


def _finite(log_p: float) -> float:
    """JSON has no infinity; OpenAI's own answers have this in its place."""
    return log_p if math.isfinite(log_p) else -9999.0
