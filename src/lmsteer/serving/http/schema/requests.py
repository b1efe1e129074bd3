"""The bodies of requests: OpenAI's, with a field ``steers`` in addition.

Unknown fields are refused, and so are values of known ones that would change the answer of another server but not of
this one: of what a request asks for, nothing is ignored.
Defaults are those of ``lmsteer.generate``, not OpenAI's, so that a seed gives the same text in Python, on the command
line and over HTTP.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, FiniteFloat, Tag, model_validator

from lmsteer.generation.config import GenerationConfig, Limits
from lmsteer.serving.http.schema.body import AS_WHOLE, Body, branch
from lmsteer.serving.http.schema.messages import AnyMessage
from lmsteer.serving.http.schema.neutral import AnyBoolean, Neutral, NeutralFields, NoFields, Off, On, Zero

_MAX_STEERS = 64
_DEFAULTS = GenerationConfig()


def _limit_steers(value: Any) -> Any:
    """Refuse long mappings as a whole: pydantic would list an error for each of a hundred thousand wrong entries."""
    if isinstance(value, dict) and len(value) > _MAX_STEERS:
        raise ValueError(f"at most {_MAX_STEERS} steers are allowed")
    return value


Strength = Annotated[
    Annotated[FiniteFloat, Tag("<a number>")] | Annotated[str, Tag("<a string>")],
    branch({int: "<a number>", float: "<a number>", str: "<a string>"}, "a number, or a string like '50%'"),
]
Strengths = Annotated[
    Annotated[dict[str, Strength], Tag("<an object>")] | Annotated[str, Tag("<a string>")],
    branch({dict: "<an object>", str: "<a string>"}, "an object like {'sentiment': 2.5}, or a string"),
    BeforeValidator(_limit_steers),
]
Model = Annotated[
    str | None, Field(description="The served model; 'sentiment@2.5' is that model with a steer at a strength.")
]
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[_StopString, Tag("<a string>")]
    | Annotated[Annotated[list[_StopString], Field(max_length=16)], Tag("<an array of strings>")],
    branch({str: "<a string>", list: "<an array of strings>"}, "a string or an array of strings"),
]
Count = Annotated[int, Field(ge=1, le=1 << 31), AS_WHOLE]
NumLogprobs = Annotated[int, Field(ge=0, le=20), AS_WHOLE]
_TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=1 << 31), AS_WHOLE]], Field(min_length=1, fail_fast=True)]


def _kind_of_prompt(value: Any) -> str | None:
    """The type of prompts that was meant, as their first one tells."""
    if isinstance(value, str):
        return "<a string>"
    if not isinstance(value, list):
        return None
    kinds: dict[type, str] = {str: "<an array of strings>", list: "<an array of arrays of token ids>"}
    return kinds.get(type(value[0]) if value else str, "<an array of token ids>")


Prompt = Annotated[
    Annotated[str, Tag("<a string>")]
    | Annotated[Annotated[list[str], Field(min_length=1, max_length=64)], Tag("<an array of strings>")]
    | Annotated[_TokenIds, Tag("<an array of token ids>")]
    | Annotated[
        Annotated[list[_TokenIds], Field(min_length=1, max_length=64)], Tag("<an array of arrays of token ids>")
    ],
    branch(_kind_of_prompt, "a string, an array of strings, or token ids"),
]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: Annotated[bool, Field(description="Send the token counts in one last chunk.")] = False
    include_obfuscation: AnyBoolean = None
    continuous_usage_stats: Off = None


class GenerationFields(NeutralFields):
    """How a text is generated; the same in all interfaces."""

    steers: Annotated[
        Strengths,
        Field(
            description="A strength for each steer: {'sentiment': 2.5}, or 'sentiment=2.5,toxicity=50%'. It may act at "
            "some tokens only: {'sentiment': '3@10..'}, '3@..10', '3@rise..40', '3@answer'."
        ),
    ] = Field(default_factory=dict)
    hold: Annotated[
        Strengths,
        Field(
            description="For each steer a probability, by its own reading of the text, to hold the text at: "
            "{'sentiment': 0.8}, or '0.8@max4' with the largest strength."
        ),
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
            ge=-1,
            le=1 << 31,
            description=f"Draw from this many likeliest tokens; 0 or -1 for all. Default {_DEFAULTS.sampling.top_k}.",
        ),
        AfterValidator(lambda top_k: max(0, top_k)),
        AS_WHOLE,
    ] = _DEFAULTS.sampling.top_k
    plausible: Annotated[
        FiniteFloat,
        Field(
            ge=0,
            lt=1,
            description="Draw only tokens that the unsteered model gives at least this share of its highest "
            "probability. Default 0: all tokens.",
        ),
    ] = 0.0
    fresh: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 31,
            description="The steers do not act on tokens among the last this many of the text. Default 0: on all.",
        ),
        AS_WHOLE,
    ] = 0
    kl: Annotated[
        FiniteFloat | None,
        Field(
            gt=0,
            description="Largest divergence of a token's distribution from the unsteered model's, in nats: the "
            "strengths are scaled down where it would be larger. Default null: no limit.",
        ),
    ] = None
    gist: Annotated[
        _Name | None, Field(description="A gist of the server (GET /v1/gists): the prompt is read after it.")
    ] = None
    baseline: Annotated[
        _Name | None,
        Field(
            description="A baseline of the server (GET /v1/baselines): 'name' at strength 1, or 'name=0.5' at another."
        ),
    ] = None
    readings: Annotated[
        bool,
        Field(
            description="Send what is known of each new token: its log-likelihood with and without the steers, the "
            "divergence of its distribution, and its evidence for each steer."
        ),
    ] = False
    seed: Annotated[
        Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1), AS_WHOLE] | None,
        Field(
            description="Seed of the samples. One seed gives the same text as lmsteer.generate. Default: a random one."
        ),
    ] = None
    stop: Annotated[Stop | None, Field(description="Strings that end the text; they are not part of it.")] = None

    @property
    def limits(self) -> Limits:
        """The limits of each token."""
        return Limits(self.plausible, self.fresh, math.inf if self.kl is None else self.kl)

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextRequest(GenerationFields):
    """The fields of OpenAI's kinds of requests for text."""

    model: Model = None
    n: Annotated[int, Field(ge=1, le=64, description="Number of samples for each prompt."), AS_WHOLE] = 1
    return_tokens_as_token_ids: Annotated[
        bool, Field(description="In log-probabilities, name each token by its id, like 'token_id:42', as vLLM does.")
    ] = False
    stream: Annotated[bool, Field(description="Send the text in chunks, as server-sent events.")] = False
    stream_options: StreamOptions | None = None
    options: NoFields = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and self.stream_options.include_usage and not self.stream:
            raise self.error_at("stream_options", self.stream_options, "needs stream: set stream to true.")
        return self


class CompletionRequest(TextRequest):
    """One or several texts to continue."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"prompt": "The movie was", "max_tokens": 20, "steers": {"sentiment": 2.5}}},
    )

    prompt: Prompt
    max_tokens: Annotated[
        int,
        Field(
            ge=-1,
            le=1 << 31,
            description="Maximum number of new tokens; -1 for as many as the context has room for; 0 only with echo, "
            f"to read the prompt alone. Default {_DEFAULTS.max_new_tokens}, as in lmsteer.generate (OpenAI's is 16).",
        ),
        AS_WHOLE,
    ] = _DEFAULTS.max_new_tokens
    logprobs: Annotated[
        NumLogprobs | None,
        Neutral(False),
        Field(description="Number of likeliest tokens to report at each step."),
    ] = None
    top_logprobs: Zero = None
    add_special_tokens: On = None
    echo: Annotated[
        bool,
        Field(
            description="Put the prompt before the text. With logprobs, the prompt's tokens have log-likelihoods, too: "
            "those under the steers of the request."
        ),
    ] = False

    @model_validator(mode="after")
    def _reads_or_writes(self) -> Self:
        if not self.max_tokens and not self.echo:
            raise self.error_at("max_tokens", 0, "must be 1 or more, unless echo is true.")
        if not self.max_tokens and self.readings:
            raise self.error_at("readings", True, "are those of new tokens, and max_tokens is 0: leave it out.")
        return self


class ChatRequest(TextRequest):
    """A conversation to answer."""

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[
        Count | None,
        Neutral(-1),
        Field(description="Maximum number of new tokens. Default: up to the end of the context."),
    ] = None
    max_completion_tokens: Annotated[Count | None, Neutral(-1), Field(description="Another name of max_tokens.")] = None
    logprobs: Annotated[bool, Field(description="Report the log-likelihood of each token.")] = False
    top_logprobs: Annotated[
        NumLogprobs | None,
        Field(description="Number of likeliest tokens to report at each step."),
    ] = None
    echo: Off = None
    add_special_tokens: Off = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise self.error_at("top_logprobs", self.top_logprobs, "needs logprobs: set logprobs to true.")
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise self.error_at("max_tokens", self.max_tokens, "differs from max_completion_tokens: set one of them.")
        return self


class AnalyseRequest(Body):
    """Texts to analyse on the dimensions of some steers."""

    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=64)]
    steers: Annotated[list[str], Field(min_length=1, max_length=16)]
    spans: Annotated[
        int, Field(ge=0, le=20, description="Maximum number of spans for each text and steer."), AS_WHOLE
    ] = 3
