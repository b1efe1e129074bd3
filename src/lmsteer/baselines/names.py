"""The names of the methods that ``lmsteer compare`` knows. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

from lmsteer.errors import DataError

METHOD_NAMES = (
    "steer",
    "deep-steer",
    "lora-steer",
    "lora",
    "lora-value",
    "lora-head",
    "prompt-tuning",
    "prefix-tuning",
    "full",
    "embeddings",
    "prompting",
    "gist",
    "few-shot",
    "activations",
)
# Methods that need an instruction for each end.
INSTRUCTION_BASED = ("prompting", "gist")


def check_methods(names: Sequence[str]) -> None:
    """Refuse unknown methods.

    Raises:
        DataError: a name is not in ``METHOD_NAMES``.
    """
    if unknown := [name for name in names if name not in METHOD_NAMES]:
        raise DataError(f"unknown methods {', '.join(unknown)}: there are {', '.join(METHOD_NAMES)}.")
