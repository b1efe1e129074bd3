"""The messages of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, Tag, model_validator

from lmsteer.serving.http.schema.body import Body, branch, custom_error, shown
from lmsteer.serving.http.schema.neutral import (
    AnyList,
    AnyObject,
    AnyString,
    Neutral,
    NoCalls,
    NoEntries,
    Off,
    Unset,
)

_TEXTS = ("text", "input_text", "output_text")
_Role = Literal["system", "developer", "user"]
_ROLES = ", ".join(f"{role!r}" for role in (*get_args(_Role), "assistant"))


class TextPart(Body):
    """A part of a message. The paths call it by different names; all of them are accepted on each."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    cache_control: AnyObject = None
    prompt_cache_breakpoint: AnyObject = None
    annotations: AnyList = None
    logprobs: AnyList = None
    id: AnyString = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Name the type of a part that is no text; its other fields are of no interest."""
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind not in _TEXTS:
            message = f"this model reads text only: a part has the type 'text', not {shown(kind)}."
            raise cls.error_at("type", kind, message)
        return value


def _check_role(value: Any) -> Any:
    if value in ("tool", "function"):
        raise custom_error(f"this server calls no tools, so no message can be that of a tool; the roles are {_ROLES}.")
    if value not in get_args(_Role):
        raise custom_error(f"must be one of {_ROLES}, not {shown(value)}.")
    return value


Content = Annotated[
    Annotated[str, Tag("<a string>")]
    | Annotated[Annotated[list[TextPart], Field(min_length=1)], Tag("<an array of parts>")],
    branch({str: "<a string>", list: "<an array of parts>"}, "a string or an array of parts"),
]


class _Turn(Body):
    """What the messages of all roles have in common: fields of no effect, as clients keep them in their histories."""

    type: Annotated[None, Neutral("message")] = None
    status: AnyString = None
    phase: AnyString = None
    name: AnyString = None
    id: AnyString = None
    metadata: AnyObject = None
    cache_control: AnyObject = None
    tool_call_id: AnyString = None
    tool_name: AnyString = None
    annotations: AnyList = None
    images: Annotated[None, Neutral([], hint="This model reads text only.")] = None
    tool_calls: NoCalls = None
    function_call: Annotated[None, Neutral(hint="This server calls no tools.")] = None
    refusal: Annotated[None, Neutral("")] = None
    audio: Annotated[None, Neutral(hint="This model reads text only.")] = None
    reasoning: AnyString = None
    reasoning_content: AnyString = None
    reasoning_details: AnyList = None
    thinking: AnyString = None
    thinking_blocks: NoEntries = None
    provider_specific_fields: AnyObject = None
    prefix: Off = None
    parsed: Unset = None

    @model_validator(mode="before")
    @classmethod
    def _is_message(cls, value: Any) -> Any:
        """Name the type of an item that is no message; its other fields are of no interest."""
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "message":
            message = f"this server reads messages alone: an item has the type 'message', not {shown(kind)}."
            raise cls.error_at("type", kind, message)
        return value

    @staticmethod
    def _text(content: str | list[TextPart]) -> str:
        return content if isinstance(content, str) else "".join(part.text for part in content)


class Message(_Turn):
    """A turn of anybody but the assistant."""

    role: Annotated[_Role, BeforeValidator(_check_role)]
    content: Content

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self._text(self.content)


class AssistantMessage(_Turn):
    """A turn of the assistant. It may lack a text: that is how clients keep an answer without one."""

    role: Literal["assistant"]
    content: Content = ""

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self._text(self.content)


def _whose(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return "<assistant>" if value.get("role") == "assistant" else "<other>"


AnyMessage = Annotated[
    Annotated[AssistantMessage, Tag("<assistant>")] | Annotated[Message, Tag("<other>")],
    branch(_whose, "an object with role and content"),
]
