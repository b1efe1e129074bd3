"""Labels as they stand in files become numbers from -1 to 1.

Labels and the names in a label map are the same if their values are: as numbers (``1``, ``1.0``, ``" 1 "``), as
booleans (``true``, ``True``), or as words, without regard to case and to spaces around them. A class of a Hub dataset
is known by its name, and also by its number unless the names of its classes are numbers. A list of one label is that
label.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from lmsteer.data.cells import ClassName
from lmsteer.errors import DataError

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"'[+-]?\d*,\d+'", re.ASCII)
_BOOLEANS = {"true", "false", "'true'", "'false'"}
# How many different labels an error message lists, and how many a suggested map may have.
_LISTED, _MAPPED = 8, 11


def read_labels(labels: Sequence[tuple[str, Any]], label_map: Mapping[str, float] | None) -> list[float]:
    """The numbers of labels, each of which comes with its place.

    Raises:
        DataError: a label is not in the map; or there is no map, and a label is not a number, or is outside [-1, 1].
    """
    labels = [(place, label[0] if isinstance(label, list) and len(label) == 1 else label) for place, label in labels]
    if label_map is not None:
        known = {_value(name): float(number) for name, number in label_map.items()}
        numbers = [_mapped(label, known) for _, label in labels]
        _refuse_others(labels, numbers, label_map)
    else:
        numbers = [_number(label) for _, label in labels]
        _refuse_others(labels, numbers, None)
    found = [number for number in numbers if number is not None]
    for (place, _), number in zip(labels, found, strict=True):
        if not -1 <= number <= 1:
            raise DataError(
                f"{place}: label {number:g} is outside [-1, 1]; the labels go from {min(found):g} to {max(found):g}. "
                f"Scale the labels, or map them{suggested_map(found)}."
            )
    return found


def parse_label_map(notation: str) -> dict[str, float]:
    """Parse ``negative=-1,positive=1``.

    Raises:
        DataError: a part is not NAME=NUMBER, two names mean the same label, or a number is outside [-1, 1].
    """
    mapping: dict[str, float] = {}
    for part in notation.split(","):
        name, _, value = (each.strip() for each in part.rpartition("="))
        try:
            number = float(value)
        except ValueError:
            name = ""
        if not name:
            raise DataError(f"cannot read the label map {notation!r}: write it like 'negative=-1,positive=1'.")
        if twice := [other for other in mapping if _value(other) == _value(name)]:
            raise DataError(f"the label map {notation!r} has {name!r} twice{f' ({twice[0]!r})' * (twice[0] != name)}.")
        if not -1 <= number <= 1:
            raise DataError(f"the label map {notation!r} maps {name!r} to {number:g}, which is outside [-1, 1].")
        mapping[name] = number
    return mapping


def suggested_map(numbers: Iterable[float]) -> str:
    """An example of a map from a few numbers, such as ratings, evenly to the range from -1 to 1; else nothing."""
    different = sorted(set(numbers))
    low, width = different[0], different[-1] - different[0]
    names = [f"{number:g}" for number in different]
    if len(different) > _MAPPED or not 0 < width < _MAPPED or [float(name) for name in names] != different:
        return ""
    parts = [f"{name}={2 * (number - low) / width - 1:.3g}" for name, number in zip(names, different, strict=True)]
    return f", for example --label-map '{','.join(parts)}'"


def _refuse_others(
    labels: Sequence[tuple[str, Any]], numbers: Sequence[float | None], label_map: Mapping[str, float] | None
) -> None:
    """Refuse labels without a number; the message lists them, with the number of rows of each."""
    others = [(place, _shown(label)) for (place, label), number in zip(labels, numbers, strict=True) if number is None]
    if not others:
        return
    counts = Counter(label for _, label in others)
    listed = ", ".join(f"{label} ({count})" for label, count in counts.most_common(_LISTED))
    more = f" and {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
    place, label = others[0]
    if label_map is not None:
        fault = f"is not in the label map ({', '.join(map(str, label_map))}); add it, or remove the row"
    elif _DECIMAL_COMMA.search(listed):
        fault = "is not a number; write a decimal point, not a comma"
    else:
        are_booleans = {label.lower() for label in counts} <= _BOOLEANS
        example = "false=-1,true=1" if are_booleans else "negative=-1,positive=1"
        fault = f"is not a number; map class labels like --label-map '{example}'"
    raise DataError(
        f"{place}: label {label} {fault}. {len(others)} of {len(labels)} rows have such labels: {listed}{more}."
    )


def _mapped(label: Any, known: Mapping[Any, float]) -> float | None:
    number = known.get(_value(label))
    if number is None and isinstance(label, ClassName) and _number(label.name) is None:
        return known.get(float(label.number))
    return number


def _value(label: Any) -> float | str:
    """What a label is compared by."""
    number = _number(label)
    if number is not None:
        return number
    name = label.name if isinstance(label, ClassName) else "" if label is None else str(label)
    return unicodedata.normalize("NFC", name.strip().casefold())


def _number(label: Any) -> float | None:
    """The number that a label is, or is written as; None if there is none."""
    if isinstance(label, ClassName):
        label = label.name
    if isinstance(label, str):
        written = label.strip().replace("\N{MINUS SIGN}", "-")
        return float(written) if _NUMBER.fullmatch(written) else None
    if isinstance(label, bool) or not isinstance(label, int | float | Decimal):
        return None
    try:
        number = float(label)
    except OverflowError:
        return math.inf if label > 0 else -math.inf
    return None if math.isnan(number) else number


def _shown(label: Any) -> str:
    if isinstance(label, ClassName):
        return f"{label.name!r} (class {label.number})"
    if label is None:
        return "none"
    return str(label).lower() if isinstance(label, bool) else repr(label)[:60]
