"""The bodies of responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class SteeringInfo(BaseModel):
    """The steers that acted on a response.

    ``steers`` has a number for each strength, or its notation where it has a window or holds a reading.
    ``steered_tokens`` counts the tokens that were drawn after a steer had moved the hidden state they came from.
    """

    steers: dict[str, float | str]
    steered_tokens: int
    warnings: list[str]


class TextResponse(SteeringInfo):
    """The fields of both kinds of responses; the chunks of a stream have the same fields."""

    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    system_fingerprint: str | None = None
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
    sites: list[str]
    safe_range: tuple[float, float] | None
    target_strength: float | None
    held_out: dict[str, Any]


class SteerList(BaseModel):
    """All steers that requests may name."""

    object: Literal["list"] = "list"
    data: list[SteerInfo]


class TrialInfo(BaseModel):
    """A strength that a calibration has tried; ``perplexity`` is null where the logits overflowed."""

    strength: float
    perplexity: float | None
    rep_3: float | None


class CalibrationInfo(BaseModel):
    """What a calibration has found; nothing of it is saved.

    ``curve`` has all strengths that were tried, in ascending order.
    """

    steer: str
    safe_range: tuple[float, float]
    max_perplexity_ratio: float
    curve: list[TrialInfo]


class GistInfo(BaseModel):
    """A gist that requests may name.

    ``prompt_tokens`` is the length of the prompt in whose place it stands, ``tokens`` its own.
    """

    name: str
    tokens: int
    bytes: int
    prompt_tokens: int
    adapter: str
    base: str


class GistList(BaseModel):
    """All gists that requests may name."""

    object: Literal["list"] = "list"
    data: list[GistInfo]


class BaselineInfo(BaseModel):
    """A baseline; ``refusal`` says why requests may not name it, and is null if they may.

    ``tokens`` is the number of tokens of the context that it takes.
    """

    name: str
    method: str
    tokens: int
    bytes: int
    refusal: str | None


class BaselineList(BaseModel):
    """All baselines."""

    object: Literal["list"] = "list"
    data: list[BaselineInfo]


class ErrorInfo(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: ErrorInfo
