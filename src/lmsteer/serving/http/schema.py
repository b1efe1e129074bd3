"""The bodies of requests and answers: OpenAI's, and ``steers`` beside them.

A field that is not known is refused, and so is one whose effect is not to be had here: nothing is left out in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator


def _few(given: Any) -> Any:
    """Each wrong entry is told of, and a body has room for a hundred thousand."""
    if isinstance(given, dict) and len(given) > _MOST_STEERS:
        raise ValueError(f"there can be {_MOST_STEERS} steers at most")
    return given


_MOST_STEERS = 64
Strengths = Annotated[dict[str, FiniteFloat | str] | str, BeforeValidator(_few)]
Count = Annotated[int, Field(ge=1, le=64)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Nothing = Annotated[dict[str, float], Field(max_length=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Clients write null for what they leave out."""
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class StreamOptions(_Body):
    """What a stream tells beside its pieces."""

    include_usage: bool = False


class WritingRequest(_Body):
    """What both kinds of requests have."""

    model: Annotated[str | None, Field(description="The served model; with steers: 'sentiment@2.5'.")] = None
    steers: Annotated[
        Strengths, Field(description="A strength for each steer: {'sentiment': 2.5}, or 'sentiment=2.5,toxicity=50%'.")
    ] = Field(default_factory=dict)
    temperature: Annotated[FiniteFloat, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1 << 31, description="Draw from so many likeliest tokens; 0 for all.")] = 0
    n: Count = 1
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Nothing | None = None
    user: Annotated[str, Field(description="Not looked at.")] | None = None

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for streams: set stream")
        return self

    @property
    def stops(self) -> list[str]:
        """As a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(WritingRequest):
    """A text, or several, to continue."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"prompt": "The movie was", "max_tokens": 20, "steers": {"sentiment": 2.5}}},
    )

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=64)]
    )
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class PlainText(_Body):
    """The only format of answers."""

    type: Literal["text"]


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """Its parts, joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(WritingRequest):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: PlainText | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs are told beside logprobs: set them to true")
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self


class AnalyseRequest(_Body):
    """Texts to read on the dimensions of some steers."""

    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    steers: Annotated[list[str], Field(min_length=1, max_length=16)]
    spans: Annotated[int, Field(ge=0, le=20)] = 3


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Steered(BaseModel):
    """Which steers acted.

    ``steered_tokens`` counts the tokens that were drawn after a steer had moved the hidden state they came from.
    """

    steers: dict[str, float]
    steered_tokens: int
    warnings: list[str]


class AnswerBody(Steered):
    """What answers of both kinds have; a stream has the same in pieces."""

    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


class Completion(AnswerBody):
    """An answer to a ``CompletionRequest``."""

    object: Literal["text_completion"] = "text_completion"


class ChatCompletion(AnswerBody):
    """An answer to a ``ChatRequest``."""

    object: Literal["chat.completion", "chat.completion.chunk"] = "chat.completion"


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lmsteer"
    max_model_len: int


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class SteerInfo(BaseModel):
    """A steer that requests may ask for."""

    name: str
    label: str
    form: str
    rank: int
    safe_range: tuple[float, float] | None
    auto: float | None
    held_out: dict[str, Any]


class SteerList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[SteerInfo]


class ErrorInfo(BaseModel):
    """What was wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """An error."""

    error: ErrorInfo
