"""The answers of Ollama's interface, whole or as lines of JSON, and how it describes a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from lmsteer.errors import LMSteerError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.answer import FINISH, Answer
from lmsteer.serving.http.schema.ollama import (
    ChatChunk,
    GenerateChunk,
    ModelDetails,
    OllamaChunk,
    OllamaError,
    OllamaMessage,
    OllamaModel,
    ShownModel,
)
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames

_QUANTIZATION = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def chunk_of(chat: bool, text: str, **fields: Any) -> OllamaChunk:
    """A response, or a chunk of one: of a chat, or of a text that is continued."""
    common = {"created_at": _timestamp(time.time()), **fields}
    if chat:
        return ChatChunk(message=OllamaMessage(content=text), **common)
    return GenerateChunk(response=text, **common)


class OllamaAnswer(Answer):
    """The answer to a request of Ollama's interface.

    Args:
        names: the texts of tokens.
        model: the model's name in the response.
        parsed: the request.
        chat: whether it is a chat in the response's format.
    """

    def __init__(self, names: TokenNames, model: str, parsed: ParsedRequest, *, chat: bool) -> None:
        super().__init__(names, model, parsed)
        self._chat, self._begun, self._first_token = chat, time.monotonic_ns(), 0

    def whole(self) -> OllamaChunk:
        """The response without streaming."""
        (choice,) = self.choices
        return self._last(choice.text, self._details(choice))

    def delta(self, index: int, chunk: Chunk) -> Iterator[OllamaChunk]:
        """New text, unless nothing of the chunk is to be seen."""
        self.note(index, chunk)
        details = self._details(Choice.of(chunk))
        if chunk.text or any(details.values()):
            yield chunk_of(self._chat, chunk.text, model=self.model, done=False, **details)

    def closing(self) -> Iterator[OllamaChunk]:
        """An empty text, with the counts and the steers."""
        yield self._last("", {})

    def failure(self, error: LMSteerError) -> OllamaError:
        """The message alone."""
        return OllamaError(error=str(error))

    def note(self, index: int, chunk: Chunk) -> None:
        """Add a chunk to its sequence, and remember when the first token came."""
        super().note(index, chunk)
        if chunk.tokens and not self._first_token:
            self._first_token = time.monotonic_ns()

    def _last(self, text: str, details: dict[str, Any]) -> OllamaChunk:
        ended = time.monotonic_ns()
        first = self._first_token or ended
        return chunk_of(
            self._chat,
            text,
            model=self.model,
            done=True,
            done_reason=FINISH[self.choices[0].finish],
            total_duration=ended - self._begun,
            load_duration=0,
            prompt_eval_count=self.parsed.prompt_tokens,
            prompt_eval_duration=first - self._begun,
            eval_count=self.new_tokens,
            eval_duration=ended - first,
            **self.steering,
            **details,
        )

    def _details(self, choice: Choice) -> dict[str, Any]:
        """The fields with what is known of each token, as far as it is wanted."""
        lines = [*self.logprobs[0].chat(choice)] if self.with_logprobs else None
        return {"logprobs": lines, "readings": self.readings(choice)}


def tag_of(name: str) -> str:
    """A name with a tag, which Ollama's clients add to names that have none."""
    return name if ":" in name else f"{name}:latest"


def described(lm: LM, started: float) -> OllamaModel:
    """A served model in the list of models."""
    size = sum(each.numel() * each.element_size() for each in lm.model.parameters())
    return OllamaModel(
        name=tag_of(lm.name),
        model=tag_of(lm.name),
        modified_at=_timestamp(started),
        size=size,
        digest=lm.fingerprint,
        details=_details(lm),
    )


def shown_model(lm: LM, context: int, started: float) -> ShownModel:
    """A served model with its sizes.

    Args:
        lm: the model.
        context: the length of the longest text with its prompt, in tokens.
        started: when the server started, in seconds since 1970.
    """
    details = _details(lm)
    info = {
        "general.architecture": details.family,
        "general.basename": lm.name,
        "general.parameter_count": lm.model.num_parameters(),
        f"{details.family}.context_length": context,
        f"{details.family}.embedding_length": lm.hidden_size,
        f"{details.family}.vocab_size": len(lm.head.weight),
    }
    return ShownModel(details=details, model_info=info, modified_at=_timestamp(started))


def _details(lm: LM) -> ModelDetails:
    family, dtype = str(lm.model.config.model_type), str(lm.model.dtype).removeprefix("torch.")
    return ModelDetails(
        family=family,
        families=[family],
        parameter_size=_short(lm.model.num_parameters()),
        quantization_level=_QUANTIZATION.get(dtype, dtype),
    )


def _short(count: int) -> str:
    """A number of parameters, like ``134.5M``."""
    unit: Literal["K", "M", "B"] = "B" if count >= 10**9 else "M" if count >= 10**6 else "K"
    return f"{count / {'K': 10**3, 'M': 10**6, 'B': 10**9}[unit]:.4g}{unit}"


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
