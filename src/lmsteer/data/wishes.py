"""Wishes: contrasts that have a name, such as ``brevity``. Some ship; a user's own is a TOML file. No torch is needed.

::

    name = "brevity"
    label = "short answers"
    positive = "very short, terse, brief"
    negative = "long, thorough, detailed"
    scorer = "words"
    direction = -1
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from lmsteer.data.contrast import Contrast
from lmsteer.data.text_files import read_text
from lmsteer.errors import DataError
from lmsteer.util.records import FormatError, from_record

_SHIPPED = Path(str(files("lmsteer") / "assets" / "wishes"))
_SUFFIX = ".toml"


@dataclass(frozen=True)
class Wish:
    """A style that somebody wants, in words, and what shows whether it is there.

    Attributes:
        name: a short name.
        label: what strength +1 means.
        positive: what texts of the positive end are like.
        negative: what texts of the negative end are like; empty for texts of no particular style.
        scorer: name of the scorer that shows it; empty if none does.
        direction: +1 if the scorer rises towards the positive end, -1 if it falls.

    Raises:
        DataError: a text that must be there is empty, both ends are the same, or the direction is neither.
    """

    name: str
    label: str
    positive: str
    negative: str = ""
    scorer: str = ""
    direction: int = 1

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.label.strip():
            raise DataError("the name or the label of the wish is empty.")
        if self.direction not in (1, -1):
            raise DataError(f"the direction of the wish {self.name} must be 1 or -1, not {self.direction}.")
        Contrast(self.positive, self.negative)

    @property
    def contrast(self) -> Contrast:
        """The two ends in words."""
        return Contrast(self.positive.strip(), self.negative.strip())


def wishes() -> list[Wish]:
    """The wishes that ship, by name."""
    return [_read(file) for file in sorted(_SHIPPED.glob(f"*{_SUFFIX}"))]


def find_wish(name: str | Path) -> Wish:
    """A wish that ships, by its name, or one of a TOML file.

    Raises:
        DataError: there is no such wish, or the file cannot be read or is no wish.
    """
    if (file := _SHIPPED / f"{name}{_SUFFIX}") in _SHIPPED.iterdir():
        return _read(file)
    if Path(name).suffix == _SUFFIX or Path(name).is_file():
        return _read(Path(name))
    known = ", ".join(wish.name for wish in wishes())
    raise DataError(f"no wish {str(name)!r}: there are {known}, and any FILE.toml of your own.")


def _read(file: Path) -> Wish:
    content = read_text(file)
    try:
        record = tomllib.loads(content)
        known = [field.name for field in fields(Wish)]
        if unknown := sorted(record.keys() - known):
            raise FormatError(f"unknown fields {', '.join(unknown)}; a wish has {', '.join(known)}")
        return from_record(Wish, record)
    except (ValueError, DataError) as error:
        raise DataError(f"{file} is no wish: {str(error).rstrip('.')}.") from error
