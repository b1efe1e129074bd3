"""Admission: what a request asks for is read, and refused if it cannot be steered so, before it is taken on."""

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
def shelf() -> SteerRegistry:
    """The steers of this process: those of the folders that the environment names, of one base.

    Raises:
        SteerError: it names none, or one that is no folder.
    """
    named = [Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name]
    if not named:
        raise SteerError(f"this server has no steers: {FOLDERS} names no folder.")
    if missing := [str(folder) for folder in named if not folder.is_dir()]:
        raise SteerError(f"{FOLDERS} names {', '.join(missing)}, which is no folder.")
    return SteerRegistry(named, _SameBase())


def asked(extra_args: Mapping[str, Any] | None, *, recall: bool = False) -> Steering:
    """Steers and strengths that a request's ``vllm_xargs`` ask for; with ``recall`` also of steers that are gone since.

    Raises:
        SteerError: they cannot be read, or there is no such steer.
    """
    extra_args = extra_args or {}
    if wrong := [key for key in extra_args if key != KEY and key.lower().startswith("steer")]:
        raise SteerError(f"unknown argument {wrong[0]!r}: write {KEY!r}, like {{{KEY!r}: 'sentiment=2.5'}}.")
    if KEY not in extra_args:
        return {}, {}
    given = extra_args[KEY]
    if not isinstance(given, str):
        raise SteerError(f"{KEY} must be a text like 'sentiment=2.5,toxicity=1', not {given!r}.")
    return shelf().steering(given, recall=recall)


class _SameBase:
    """All steers are of the base that the first one is of; the worker proves that it is the model's."""

    def __init__(self) -> None:
        self._base: tuple[str, str] | None = None

    def __call__(self, card: Card) -> None:
        base = (card.base_fingerprint, card.tokenizer_fingerprint)
        self._base = self._base or base
        if base != self._base:
            raise SteerError(f"steer {card.name!r} is of another base model ({card.base}) than the steers beside it.")
