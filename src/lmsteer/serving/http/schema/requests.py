"""The bodies of requests: OpenAI's, with a field ``steers`` in addition.

Unknown fields are refused, and so are known ones that would have no effect here: no field is ignored without an error.
Defaults are those of ``lmsteer.generate``, not OpenAI's, so that a seed gives the same text in Python, on the command
line and over HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from lmsteer.generation.config import GenerationConfig
from lmsteer.serving.http.schema.body import Body
from lmsteer.serving.http.schema.messages import Message

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


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: Annotated[bool, Field(description="Send the token counts in one last chunk.")] = False


class TextRequest(Body):
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


class PlainText(Body):
    """The only response format."""

    type: Literal["text"]


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


class AnalyseRequest(Body):
    """Texts to analyse on the dimensions of some steers."""

    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    steers: Annotated[list[str], Field(min_length=1, max_length=16)]
    spans: Annotated[int, Field(ge=0, le=20, description="Maximum number of spans for each text and steer.")] = 3
