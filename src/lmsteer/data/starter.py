"""Starter texts, prompts and requests, written for this project: for a first fit, the demo and measurements."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lmsteer.data.labelled import LabelledText, read_labelled
from lmsteer.errors import DataError

_STARTER = Path(str(files("lmsteer") / "assets" / "starter"))
DIMENSIONS = {"sentiment": "positive sentiment", "formality": "formal register"}


def starter_texts(dimension: str = "sentiment") -> list[LabelledText]:
    """The starter texts of a dimension: ``sentiment`` (+1 positive) or ``formality`` (+1 formal).

    Raises:
        DataError: there is no such dimension.
    """
    return read_labelled(starter_file(dimension))


def starter_file(dimension: str) -> Path:
    """The JSONL file of the starter texts of a dimension.

    Raises:
        DataError: there is no such dimension.
    """
    if dimension not in DIMENSIONS:
        raise DataError(f"no starter texts for {dimension!r}; there are {', '.join(DIMENSIONS)}.")
    return _STARTER / f"{dimension}.jsonl"


def starter_prompts() -> list[str]:
    """Sixty neutral openings of texts, to be continued."""
    return (_STARTER / "prompts.txt").read_text(encoding="utf-8").splitlines()


def starter_requests() -> list[str]:
    """Forty neutral requests, to be answered by a model that answers in chats."""
    return (_STARTER / "requests.txt").read_text(encoding="utf-8").splitlines()


def starter_subjects() -> list[str]:
    """Sixty subjects of everyday life, to write short texts about."""
    return (_STARTER / "subjects.txt").read_text(encoding="utf-8").splitlines()
