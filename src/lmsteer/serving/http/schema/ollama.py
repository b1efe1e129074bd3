"""The bodies of Ollama's interface. Requests are translated into those for a chat or a completion.

Ollama puts how a text is generated into ``options``; the steers stand there, too, since its clients pass on whatever
they are given there.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lmsteer.serving.http.schema.body import Body
from lmsteer.serving.http.schema.messages import AnyMessage, Message
from lmsteer.serving.http.schema.neutral import AnyBoolean, AnyNumber, AnyString, Neutral, NeutralFields, Off, Unset
from lmsteer.serving.http.schema.requests import (
    ChatRequest,
    CompletionRequest,
    Count,
    GenerationFields,
    Model,
    NumLogprobs,
)

_TO_THE_END = (-1, -2)
_LATEST = ":latest"


class Options(GenerationFields):
    """How a text is generated. What only says where a model runs has no effect here."""

    num_predict: Annotated[
        Count | None,
        Neutral(*_TO_THE_END),
        Field(description="Maximum number of new tokens. Default, and with -1 or -2: up to the end of the context."),
    ] = None
    num_ctx: AnyNumber = None
    num_keep: AnyNumber = None
    num_batch: AnyNumber = None
    num_gpu: AnyNumber = None
    main_gpu: AnyNumber = None
    num_thread: AnyNumber = None
    numa: AnyBoolean = None
    low_vram: AnyBoolean = None
    f16_kv: AnyBoolean = None
    use_mmap: AnyBoolean = None
    use_mlock: AnyBoolean = None
    logits_all: AnyBoolean = None
    vocab_only: Off = None
    embedding_only: Off = None
    penalize_newline: AnyBoolean = None  # of use with a penalty alone, and those are refused
    draft_num_predict: AnyNumber = None


class _OllamaRequest(NeutralFields):
    """The fields of both kinds of requests for text."""

    model: Model = None
    stream: Annotated[bool, Field(description="Send the text in chunks, one JSON object on each line.")] = True
    options: Annotated[
        Options, Field(description="How the text is generated, like {'steers': {'sentiment': 2.5}, 'num_predict': 40}.")
    ] = Field(default_factory=Options)
    logprobs: Annotated[bool, Field(description="Report the log-likelihood of each token.")] = False
    top_logprobs: Annotated[
        NumLogprobs | None, Field(description="Number of likeliest tokens to report at each step.")
    ] = None

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise self.error_at("top_logprobs", self.top_logprobs, "needs logprobs: set logprobs to true.")
        return self

    @classmethod
    def _suggestion(cls, name: str) -> str:
        return "; it goes into 'options'." if name in Options.model_fields else super()._suggestion(name)

    @property
    def model_name(self) -> str | None:
        """The model without the tag that Ollama's clients add to a name without one."""
        return self.model and self.model.removesuffix(_LATEST)

    @property
    def num_logprobs(self) -> int | None:
        """The number of likeliest tokens to report; None for no log-likelihoods."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def _shared(self) -> dict[str, Any]:
        """The fields that requests for chats and completions have as well."""
        options = {name: getattr(self.options, name) for name in GenerationFields.model_fields}
        return {**options, "model": self.model_name}

    def _chat(self, messages: list[AnyMessage]) -> ChatRequest:
        return ChatRequest.model_construct(
            **self._shared(),
            messages=messages,
            max_tokens=self.options.num_predict,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
        )


class OllamaChatRequest(_OllamaRequest):
    """A conversation to answer."""

    messages: Annotated[
        list[AnyMessage], Field(max_length=1024, description="The conversation; without one, the model is loaded.")
    ] = Field(default_factory=list)

    def as_chat(self) -> ChatRequest:
        """The request for a chat that asks for the same."""
        return self._chat(self.messages)


class OllamaGenerateRequest(_OllamaRequest):
    """A text to continue, or to answer in the model's chat template."""

    prompt: Annotated[str, Field(description="The text; without one, the model is loaded.")] = ""
    system: Annotated[str, Field(description="A system message before the text.")] = ""
    raw: Annotated[bool, Field(description="Continue the text as it stands, without the chat template.")] = False
    template: Annotated[None, Neutral("", hint="Apply it yourself, and set raw to true.")] = None
    context: Annotated[None, Neutral([], hint="Send the whole conversation to /api/chat.")] = None
    images: Annotated[None, Neutral([], hint="This model reads text only.")] = None
    width: Unset = None
    height: Unset = None
    steps: Unset = None

    @model_validator(mode="after")
    def _raw_text_has_no_system_message(self) -> Self:
        if self.raw and self.system:
            raise self.error_at("system", self.system, "has no place in raw text: put it into the prompt.")
        return self

    def as_chat(self) -> ChatRequest:
        """The request for a chat in which the user says the prompt."""
        said: list[AnyMessage] = [Message(role="user", content=self.prompt)]
        if self.system:
            said.insert(0, Message(role="system", content=self.system))
        return self._chat(said)

    def as_completion(self) -> CompletionRequest:
        """The request for a completion of the prompt."""
        return CompletionRequest.model_construct(
            **self._shared(),
            prompt=self.prompt,
            max_tokens=self.options.num_predict or -1,
            logprobs=self.num_logprobs,
        )


class ShowRequest(Body):
    """The name of a model to show."""

    model: Model = None
    name: Annotated[str | None, Field(description="The older name of the field model.")] = None
    verbose: AnyBoolean = None
    system: AnyString = None
    template: AnyString = None

    @property
    def model_name(self) -> str | None:
        """The model without the tag that Ollama's clients add."""
        name = self.model or self.name
        return name and name.removesuffix(_LATEST)


class OllamaMessage(BaseModel):
    """A message of the assistant, or a piece of it."""

    role: str = "assistant"
    content: str


class OllamaChunk(BaseModel):
    """A response, or a chunk of one; the last chunk alone has all fields. Durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    logprobs: list[dict[str, Any]] | None = None
    readings: list[dict[str, Any]] | None = None
    done_reason: str | None = None
    steers: dict[str, float | str] | None = None
    steered_tokens: int | None = None
    warnings: list[str] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ChatChunk(OllamaChunk):
    """The response to an ``OllamaChatRequest``, or a chunk of it."""

    message: OllamaMessage


class GenerateChunk(OllamaChunk):
    """The response to an ``OllamaGenerateRequest``, or a chunk of it."""

    response: str


class OllamaError(BaseModel):
    """The body of an error, and the last line of a stream that failed."""

    error: str


class ModelDetails(BaseModel):
    """What a model is."""

    parent_model: str = ""
    format: str = "safetensors"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """A served model."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class OllamaModels(BaseModel):
    """All served models."""

    models: list[OllamaModel]


class ShownModel(BaseModel):
    """The response to a ``ShowRequest``."""

    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    license: str = ""
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str] = ["completion"]
    modified_at: str


class OllamaVersion(BaseModel):
    """The version of the server."""

    version: str
