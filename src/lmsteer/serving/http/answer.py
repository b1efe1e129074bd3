"""What the answers of all interfaces have in common: the sequences so far, and the bodies that are made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk, FinishReason
from lmsteer.serving.http.logprobs import SequenceLogprobs
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames
from lmsteer.steer.strength import strengths_json

# No interface has a finish reason for a timeout: the text is reported as cut, and a warning says why.
FINISH: dict[FinishReason | None, str | None] = {"stop": "stop", "length": "length", "timeout": "length", None: None}
_TIMED_OUT = "the request timed out: the text is incomplete."


class Answer(ABC):
    """Makes the bodies of the response to one request for text, whole or chunk by chunk.

    Args:
        names: the texts of tokens.
        model: the model's name in the response.
        parsed: the request.

    Attributes:
        model: the model's name in the response.
        parsed: the request.
        choices: the sequences so far.
        logprobs: writes the log-likelihoods of each sequence.
    """

    def __init__(self, names: TokenNames, model: str, parsed: ParsedRequest) -> None:
        self.model, self.parsed = model, parsed
        self.choices = [Choice() for _ in parsed.requests]
        pairs = zip(parsed.requests, parsed.echoed, strict=True)
        as_ids = parsed.tokens_as_ids
        self.logprobs = [SequenceLogprobs(names, request.ids, echoed, as_ids=as_ids) for request, echoed in pairs]

    @property
    def with_logprobs(self) -> bool:
        """Whether the request asked for log-likelihoods."""
        return self.parsed.requests[0].num_logprobs is not None

    def readings(self, choice: Choice) -> list[dict[str, Any]] | None:
        """What is known of each token of a sequence, or of a chunk of one; None unless the request asked for it."""
        is_wanted = self.parsed.requests[0].readings
        return [reading.to_json() for reading in choice.readings] if is_wanted else None

    @property
    def new_tokens(self) -> int:
        """Number of tokens so far."""
        return sum(choice.tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens of the prompts that did not have to be read, since earlier prompts began alike."""
        samples = len(self.choices) // self.parsed.prompts
        return sum(choice.cached for choice in self.choices[::samples])

    @property
    def steering(self) -> dict[str, object]:
        """The fields that say how the answer was steered, as in ``SteeringInfo``."""
        timed_out = [_TIMED_OUT] if any(choice.finish == "timeout" for choice in self.choices) else []
        return {
            "steers": strengths_json(self.parsed.steering.strengths),
            "steered_tokens": sum(choice.steered for choice in self.choices),
            "warnings": [*self.parsed.steering.warnings, *timed_out],
        }

    def note(self, index: int, chunk: Chunk) -> None:
        """Add a chunk to its sequence."""
        self.choices[index].add(chunk)

    @abstractmethod
    def whole(self) -> BaseModel:
        """The response without streaming."""

    def opening(self) -> Iterable[BaseModel]:
        """What a stream begins with, before the first chunk."""
        return ()

    @abstractmethod
    def delta(self, index: int, chunk: Chunk) -> Iterable[BaseModel]:
        """What a stream sends of a chunk of one sequence; the chunk is added to the sequence."""

    @abstractmethod
    def closing(self) -> Iterable[BaseModel]:
        """What a stream ends with, once all sequences have ended."""

    @abstractmethod
    def failure(self, error: LMSteerError) -> BaseModel:
        """What a stream ends with after an error; its status has been sent long before."""
