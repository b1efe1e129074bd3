"""JSON objects that become dataclasses: the one place that checks the types of what was read, by the annotations."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")

# A number that is neither nan nor infinite.
Finite = Annotated[float, "finite"]


class FormatError(ValueError):
    """JSON that is damaged, lacks a field, or has another type of value in one."""


class DuplicateKeyError(ValueError):
    """A JSON object that has a key twice.

    Attributes:
        key: the key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice in one object; rename or remove one of them")
        self.key = key


class Record(dict[str, Any]):
    """A JSON object; a missing key is a ``FormatError``."""

    def __missing__(self, key: str) -> Any:
        raise FormatError(f"the field {key!r} is missing")


def parse_json(content: str | bytes) -> Any:
    """Read JSON.

    Raises:
        FormatError: it is none, is nested too deeply, has a key twice, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(content, object_pairs_hook=unique_keys)
    except RecursionError:
        raise FormatError("no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"no JSON that can be read: {error}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some keys and values; the ``object_pairs_hook`` of all JSON that is read.

    Raises:
        DuplicateKeyError: a key is there twice, of which JSON's readers would drop the first.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return found


def from_record(kind: type[T], record: Any) -> T:
    """Build a dataclass from a JSON object; unknown fields (of a newer version) are ignored.

    Raises:
        FormatError: the record is no object, lacks a field that the dataclass requires, or has a value of another type
            than the field's annotation.
    """
    if not isinstance(record, dict):
        raise FormatError(f"a {kind.__name__} must be a JSON object, not {type(record).__name__}")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in record]:
        raise FormatError(f"the fields {', '.join(missing)} are missing")
    annotations = get_type_hints(kind, include_extras=True)
    return kind(**{name: _checked(name, annotations[name], record[name]) for name in known if name in record})


def number_in(record: Mapping[str, Any], name: str) -> float | None:
    """A finite number in a JSON object whose fields nobody has checked; None if there is something else, or nothing."""
    value = record.get(name)
    return value if _is_finite(value) else None


def _checked(name: str, annotation: Any, value: Any) -> Any:
    """A value of an annotated type; lists become tuples where the annotation is one.

    Raises:
        FormatError: it has another type.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _checked_optional(name, arguments, value)
    if origin is Literal:
        return _expect(name, value in arguments if isinstance(value, str) else False, value, f"one of {arguments}")
    if is_typeddict(annotation):
        return _checked_fields(name, annotation, value)
    if origin is Annotated:
        return _expect(name, _is_finite(value), value, "a finite number")
    if annotation is float:  # null is nan, as ``finite`` writes it
        return math.nan if value is None else _expect(name, _is_number(value), value, "a number")
    if annotation is bool:
        return _expect(name, isinstance(value, bool), value, "true or false")
    if annotation is int:
        return _expect(name, isinstance(value, int) and not isinstance(value, bool), value, "a whole number")
    if annotation is str:
        return _expect(name, isinstance(value, str), value, "a text")
    if origin is tuple:
        return _checked_tuple(name, arguments, value)
    if origin in (list, Sequence):
        return [_checked(name, arguments[0], item) for item in _expect(name, isinstance(value, list), value, "a list")]
    if is_dataclass(annotation) and isinstance(annotation, type):
        return from_record(annotation, value)
    if origin is Mapping:
        _expect(name, isinstance(value, dict), value, "an object")
        return {key: _checked(f"{name}.{key}", arguments[1], item) for key, item in value.items()}
    return value


def _checked_optional(name: str, arguments: tuple[Any, ...], value: Any) -> Any:
    (inner,) = (argument for argument in arguments if argument is not type(None))
    return None if value is None else _checked(name, inner, value)


def _checked_tuple(name: str, arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    count = None if Ellipsis in arguments else len(arguments)
    is_fitting = isinstance(value, (list, tuple)) and count in (None, len(value))
    _expect(name, is_fitting, value, "a list" if count is None else f"a list of {count}")
    return tuple(_checked(name, arguments[0], item) for item in value)


def _checked_fields(name: str, annotation: Any, value: Any) -> dict[str, Any]:
    _expect(name, isinstance(value, dict), value, "an object")
    if missing := sorted(annotation.__required_keys__ - value.keys()):
        raise FormatError(f"the fields {', '.join(missing)} of {name!r} are missing")
    hints = get_type_hints(annotation, include_extras=True)
    return {key: _checked(f"{name}.{key}", hints[key], item) if key in hints else item for key, item in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _expect(name: str, is_right: bool, value: Any, expected: str) -> Any:
    if not is_right:
        shown = value if isinstance(value, (int, float)) else type(value).__name__
        raise FormatError(f"the field {name!r} must be {expected}, not {shown}")
    return value
