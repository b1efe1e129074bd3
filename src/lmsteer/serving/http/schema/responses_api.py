"""The bodies of OpenAI's Responses API, ``/v1/responses``: the request, the response, and the events of a stream.

A request is translated into that for a chat, so that there is one way to answer a conversation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, Tag, model_validator

from lmsteer.serving.http.schema.body import AS_WHOLE, Body, branch
from lmsteer.serving.http.schema.messages import AnyMessage, Message
from lmsteer.serving.http.schema.neutral import NO_GRAMMAR, AnyNumber, Neutral, NoEntries, Off
from lmsteer.serving.http.schema.requests import ChatRequest, Count, NumLogprobs, TextRequest
from lmsteer.serving.http.schema.responses import SteeringInfo

_LOGPROBS = "message.output_text.logprobs"
# Asks for parts of answers that this server never makes, like the results of a search.
_Included = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
Status = Literal["in_progress", "completed", "incomplete", "failed"]
EventType = Literal[
    "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
]
_Stateless = Annotated[None, Neutral(hint="This server keeps no answers: send the whole conversation as input.")]
# Left out where the request does not ask for them.
Readings = Annotated[list[dict[str, Any]] | None, Field(exclude_if=lambda readings: readings is None)]


class TextConfig(Body):
    """The format of the text."""

    format: Annotated[None, Neutral({"type": "text"}, hint=NO_GRAMMAR)] = None
    verbosity: Annotated[None, Neutral("medium")] = None


class ResponsesRequest(TextRequest):
    """A conversation to answer, in the Responses API."""

    input: Annotated[
        Annotated[str, Tag("<a string>")]
        | Annotated[Annotated[list[AnyMessage], Field(min_length=1, max_length=1024)], Tag("<an array of messages>")],
        branch({str: "<a string>", list: "<an array of messages>"}, "a string or an array of messages"),
    ]
    instructions: Annotated[str | None, Field(description="A system message before the conversation.")] = None
    max_output_tokens: Annotated[
        Count | None,
        Neutral(-1),
        Field(description="Maximum number of new tokens. Default: up to the end of the context."),
    ] = None
    include: Annotated[
        list[_Included],
        Field(max_length=32, description=f"{_LOGPROBS!r} reports the log-likelihood of each token."),
    ] = Field(default_factory=list)
    top_logprobs: Annotated[
        NumLogprobs | None, Field(description="Number of likeliest tokens to report at each step.")
    ] = None
    text: TextConfig | None = None
    n: Annotated[int, Field(ge=1, le=1), AS_WHOLE] = 1
    truncation: Annotated[None, Neutral("disabled")] = None
    previous_response_id: _Stateless = None
    conversation: _Stateless = None
    prompt: Annotated[None, Neutral(hint="This server keeps no prompts: the text goes into input.")] = None
    background: Off = None
    context_management: NoEntries = None
    max_tool_calls: AnyNumber = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.top_logprobs and not self.with_logprobs:
            raise self.error_at("top_logprobs", self.top_logprobs, f"needs {_LOGPROBS!r} in include.")
        return self

    @property
    def with_logprobs(self) -> bool:
        """Whether it asks for log-likelihoods."""
        return _LOGPROBS in self.include

    def as_chat(self) -> ChatRequest:
        """The request for a chat that asks for the same."""
        said = [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        if self.instructions is not None:
            said = [Message(role="system", content=self.instructions), *said]
        shared = {name: getattr(self, name) for name in TextRequest.model_fields}
        return ChatRequest.model_construct(
            **shared,
            messages=said,
            max_tokens=self.max_output_tokens,
            logprobs=self.with_logprobs,
            top_logprobs=self.top_logprobs,
        )


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[dict[str, Any]] = []
    readings: Readings = None


class OutputMessage(BaseModel):
    """The answer, an item of the output."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    content: list[OutputText] = []


class ResponseUsage(BaseModel):
    """Token counts."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int] = {"reasoning_tokens": 0}
    total_tokens: int


class ResponseObject(SteeringInfo):
    """The response to a ``ResponsesRequest``: what was asked, and what was written so far."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    model: str
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    output: list[OutputMessage] = Field([])
    usage: ResponseUsage | None = None
    background: bool = False
    metadata: dict[str, str] = Field({})
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    reasoning: dict[str, None] = Field({"effort": None, "summary": None})
    service_tier: str = "default"
    store: bool = False
    text: dict[str, Any] = Field({"format": {"type": "text"}})
    tool_choice: str = "none"
    tools: list[Any] = Field([])
    truncation: str = "disabled"


class ResponseEvent(BaseModel):
    """An event about the response as a whole."""

    type: EventType
    sequence_number: int
    response: ResponseObject


class ItemEvent(BaseModel):
    """An event about an item of the output."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int = 0
    item: OutputMessage


class _PartOfItem(BaseModel):
    sequence_number: int
    item_id: str
    output_index: int = 0
    content_index: int = 0


class PartEvent(_PartOfItem):
    """An event about a part of an item."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class TextDelta(_PartOfItem):
    """New text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[dict[str, Any]]
    readings: Readings = None


class TextDone(_PartOfItem):
    """The whole text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[dict[str, Any]]
