"""Validation: the steers of a request are parsed, and refused if they cannot act, before vLLM accepts the request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lmsteer.errors import SteerError
from lmsteer.serving.registry import SteerRegistry
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Steering

FOLDERS, KEY = "LMSTEER_STEERS", "steers"


@cache
def registry() -> SteerRegistry:
    """The steers of this process: those in the folders of ``LMSTEER_STEERS``, all of one base.

    Raises:
        SteerError: the variable is empty, or names something that is not a folder.
    """
    folders = [Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name]
    if not folders:
        raise SteerError(f"this server has no steers: the environment variable {FOLDERS} is empty.")
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise SteerError(f"{FOLDERS} names {', '.join(missing)}, which is not a folder.")
    return SteerRegistry(folders, _SameBase())


def parse_steering(extra_args: Mapping[str, Any] | None, *, recall: bool = False) -> Steering:
    """The steers and strengths in a request's ``vllm_xargs``; both are empty if it has none.

    Args:
        extra_args: the request's extra arguments.
        recall: use the last version of steers that have been deleted.

    Raises:
        SteerError: the strengths cannot be parsed, or there is no such steer.
    """
    extra_args = extra_args or {}
    if wrong := [key for key in extra_args if key != KEY and key.lower().startswith("steer")]:
        raise SteerError(f"unknown argument {wrong[0]!r}: write {KEY!r}, like {{{KEY!r}: 'sentiment=2.5'}}.")
    if KEY not in extra_args:
        return {}, {}
    notation = extra_args[KEY]
    if not isinstance(notation, str):
        raise SteerError(f"{KEY} must be a text like 'sentiment=2.5,toxicity=1', not {notation!r}.")
    return registry().steering(notation, recall=recall)


class _SameBase:
    """Refuses a card of another base than the first card's. That it is the served model is checked by the worker."""

    def __init__(self) -> None:
        self._base: tuple[str, str] | None = None

    def __call__(self, card: Card) -> None:
        base = (card.base_fingerprint, card.tokenizer_fingerprint)
        self._base = self._base or base
        if base != self._base:
            raise SteerError(f"steer {card.name!r} has another base model ({card.base}) than the other steers here.")
