"""The bodies of requests and responses: OpenAI's, with a field ``steers`` in addition.

Unknown fields are refused, and so are known ones that would have no effect here: no field is ignored without an error.
Defaults are those of ``lmsteer.generate``, not OpenAI's, so that a seed gives the same text in Python, on the command
line and over HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from lmsteer.generation.config import GenerationConfig

_MAX_STEERS = 64
_DEFAULTS = GenerationConfig()


def _limit_steers(value: Any) -> Any:
    """Refuse long mappings as a whole: pydantic would list an error for each of a hundred thousand wrong entries."""
    if isinstance(value, dict) and len(value) > _MAX_STEERS:
        raise ValueError(f"at most {_MAX_STEERS} steers are allowed")
    return value


Strengths = Annotated[dict[str, FiniteFloat | str] | str, BeforeValidator(_limit_steers)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
EmptyBias = Annotated[dict[str, float], Field(max_length=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Some clients send null for the fields that they do not set."""
        return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: Annotated[bool, Field(description="Send the token counts in one last chunk.")] = False


class TextRequest(_Body):
    """The fields of both kinds of requests for text."""

    model: Annotated[
        str | None, Field(description="The served model; 'sentiment@2.5' is that model with a steer at a strength.")
    ] = None
    steers: Annotated[
        Strengths, Field(description="A strength for each steer: {'sentiment': 2.5}, or 'sentiment=2.5,toxicity=50%'.")
    ] = Field(default_factory=dict)
    temperature: Annotated[
        FiniteFloat,
        Field(
            ge=0,
            le=10,
            description="Sampling temperature; 0 takes the likeliest token. Default "
            f"{_DEFAULTS.sampling.temperature:g}, as in lmsteer.generate.",
        ),
    ] = _DEFAULTS.sampling.temperature
    top_p: Annotated[
        FiniteFloat,
        Field(
            gt=0,
            le=1,
            description="Draw from the likeliest tokens that together have this probability. Default "
            f"{_DEFAULTS.sampling.top_p:g}, as in lmsteer.generate (OpenAI's is 1).",
        ),
    ] = _DEFAULTS.sampling.top_p
    top_k: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 31,
            description=f"Draw from this many likeliest tokens; 0 for all. Default {_DEFAULTS.sampling.top_k}.",
        ),
    ] = _DEFAULTS.sampling.top_k
    n: Annotated[int, Field(ge=1, le=64, description="Number of samples for each prompt.")] = 1
    seed: Annotated[
        int | None,
        Field(
            ge=-(1 << 63),
            lt=1 << 63,
            description="Seed of the samples. One seed gives the same text as lmsteer.generate. Default: a random one.",
        ),
    ] = None
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=16)] | None,
        Field(description="Strings that end the text; they are not part of it."),
    ] = None
    stream: Annotated[bool, Field(description="Send the text in chunks, as server-sent events.")] = False
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: EmptyBias | None = None
    user: Annotated[str | None, Field(description="Accepted and not used.")] = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options need stream: set stream to true")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(TextRequest):
    """One or several texts to continue."""

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
    max_tokens: Annotated[
        int,
        Field(
            ge=1,
            description=f"Maximum number of new tokens. Default {_DEFAULTS.max_new_tokens}, as in lmsteer.generate "
            "(OpenAI's is 16).",
        ),
    ] = _DEFAULTS.max_new_tokens
    logprobs: Annotated[
        int | None, Field(ge=0, le=20, description="Number of likeliest tokens to report at each step.")
    ] = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class PlainText(_Body):
    """The only response format."""

    type: Literal["text"]


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(TextRequest):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[
        int | None, Field(ge=1, description="Maximum number of new tokens. Default: up to the end of the context.")
    ] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, description="Another name of max_tokens.")] = None
    logprobs: Annotated[bool, Field(description="Report the log-likelihood of each token.")] = False
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=20, description="Number of likeliest tokens to report at each step.")
    ] = None
    response_format: PlainText | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs need logprobs: set logprobs to true")
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens differ: set one of them")
        return self


class AnalyseRequest(_Body):
    """Texts to analyse on the dimensions of some steers."""

    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    steers: Annotated[list[str], Field(min_length=1, max_length=16)]
    spans: Annotated[int, Field(ge=0, le=20, description="Maximum number of spans for each text and steer.")] = 3


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SteeringInfo(BaseModel):
    """The steers that acted on a response.

    ``steered_tokens`` counts the tokens that were drawn after a steer had moved the hidden state they came from.
    """

    steers: dict[str, float]
    steered_tokens: int
    warnings: list[str]


class TextResponse(SteeringInfo):
    """The fields of both kinds of responses; the chunks of a stream have the same fields."""

    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


class Completion(TextResponse):
    """The response to a ``CompletionRequest``."""

    object: Literal["text_completion"] = "text_completion"


class ChatCompletion(TextResponse):
    """The response to a ``ChatRequest``."""

    object: Literal["chat.completion", "chat.completion.chunk"] = "chat.completion"


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lmsteer"
    max_model_len: int


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class SteerInfo(BaseModel):
    """A steer that requests may name."""

    name: str
    label: str
    form: str
    rank: int
    safe_range: tuple[float, float] | None
    target_strength: float | None
    held_out: dict[str, Any]


class SteerList(BaseModel):
    """All steers that requests may name."""

    object: Literal["list"] = "list"
    data: list[SteerInfo]


class ErrorInfo(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: ErrorInfo
