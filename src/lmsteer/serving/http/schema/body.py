"""What the bodies of all requests have in common: names, nulls, numbers, and what errors say of a wrong value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from lmsteer.util.escapes import printable

_MAX_SHOWN = 60
NULL = {"type": "null"}
# What asks for nothing, whatever the field is for.
EMPTY: tuple[Any, ...] = ("", [], {})
# Names that other programs have for fields of this server; the first of them that a body has is meant.
_MAX_TOKENS = ("max_tokens", "max_output_tokens", "num_predict")
_PROMPT = ("input", "messages", "prompt")
_SYNONYMS = {
    "max_new_tokens": _MAX_TOKENS,
    "max_length": _MAX_TOKENS,
    "max_tokens": _MAX_TOKENS,
    "max_completion_tokens": _MAX_TOKENS,
    "max_output_tokens": _MAX_TOKENS,
    "max_gen_len": _MAX_TOKENS,
    "n_predict": _MAX_TOKENS,
    "num_predict": _MAX_TOKENS,
    "num_return_sequences": ("n",),
    "num_samples": ("n",),
    "random_seed": ("seed",),
    "stop_sequences": ("stop",),
    "inputs": _PROMPT,
    "input": _PROMPT,
    "messages": _PROMPT,
    "prompt": _PROMPT,
    "strengths": ("steers",),
}
# What is said of a value for each kind of error, where pydantic's own words would not be those of JSON.
_REASONS = {
    "missing": "is missing",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "too_long": "must have at most {max_length} entries, not {actual_length}",
    "too_short": "must have at least {min_length} entry, not {actual_length}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} character",
}


class Body(BaseModel):
    """A JSON object. A field that is null is not set; a field with an unknown name is refused, unless it is empty."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {name: each for name, each in value.items() if each is not None}
        for name, each in given.items():
            if name not in cls.model_fields and each not in EMPTY:
                raise cls.error_at(name[:_MAX_SHOWN], each, f"unknown field{cls._suggestion(name)}")
        return {name: each for name, each in given.items() if name in cls.model_fields}

    @classmethod
    def error_at(cls, field: str, value: Any, message: str) -> ValidationError:
        """The error of one field, for a validator of the whole body to raise."""
        details = InitErrorDetails(type=custom_error(message), loc=(field,), input=value)
        return ValidationError.from_exception_data(cls.__name__, [details])

    @classmethod
    def _suggestion(cls, name: str) -> str:
        meant = [each for each in _SYNONYMS.get(name, ()) if each in cls.model_fields]
        meant = meant or get_close_matches(name[:_MAX_SHOWN].lower(), cls.model_fields, 1, 0.75)
        return f"; did you mean {meant[0]!r}?" if meant else "."

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema with the nulls that are accepted."""
        schema = handler(core)
        fields = handler.resolve_ref_schema(schema)
        for name, each in fields["properties"].items():
            if name not in fields.get("required", ()):
                fields["properties"][name] = _or_null(each)
        fields["additionalProperties"] = {"enum": [None, *EMPTY]}
        return schema


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """A JSON schema that accepts null as well."""
    if NULL in schema.get("anyOf", []):
        return schema
    inner, outer = dict(schema), JsonSchemaValue()
    for key in ("title", "description", "default"):
        if key in inner:
            outer[key] = inner.pop(key)
    return {"anyOf": [inner, NULL], **outer}


def _as_whole(value: Any) -> Any:
    """20.0 is a whole number: JSON has one kind of numbers, and some languages write them all with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# For fields of type int; after their limits, which the schema shows.
AS_WHOLE = BeforeValidator(_as_whole)


def branch(kind: Callable[[Any], str | None] | Mapping[type, str], expected: str) -> Discriminator:
    """The choice between the types of a union, so that an error speaks of the type that was meant alone.

    Args:
        kind: the tag of a value's type, like ``"<an array of strings>"``, or None if it is of no type; or tags by type.
        expected: what is said of a value of no type: "must be ...".
    """
    find = kind if callable(kind) else lambda value: kind.get(type(value))
    return Discriminator(find, custom_error_type="union", custom_error_message=f"must be {expected}")


def custom_error(message: str) -> PydanticCustomError:
    """An error with a message that is complete."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def shown(value: Any) -> str:
    """A value as JSON for a message, cut short. It may be nested deeply, or hold halves of characters."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > _MAX_SHOWN:
            text = f"{text[:_MAX_SHOWN]} ..."
            break
    return printable(text)


def describe(error: Mapping[str, Any]) -> tuple[str, str]:
    """The field at fault, like ``messages.0.content``, and what is wrong with it; from an error of pydantic.

    The field is empty if the body as a whole is at fault.
    """
    # Between fields and positions, pydantic puts the types that it tried, written as in ``branch``.
    parts = [part for part in error["loc"] if not _is_tag(part)]
    place = printable(".".join(map(str, parts)))
    if error["type"] == "refused":
        return place, error["msg"]
    reason = _REASONS.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] in _REASONS:
        reason = reason.format(**{name: _as_whole(limit) for name, limit in error.get("ctx", {}).items()})
    reason = reason.replace("Input should be", "must be")
    if reason.startswith("must be "):
        reason += f", not {shown(error['input'])}"
    inner = error["loc"][-2] if len(error["loc"]) > 1 else ""
    within = f" (in {inner[1:-1]})" if _is_tag(inner) and isinstance(error["loc"][-1], int) else ""
    return place, f"{reason}{within}."


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")
