"""Validation: the steers of a request are parsed, and refused if they cannot act, before vLLM accepts the request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from lmsteer.errors import DataError, SteerError
from lmsteer.generation.config import Limits
from lmsteer.serving.registry import SteerRegistry
from lmsteer.serving.vllm.asked import NOTHING, Asked
from lmsteer.steer.card import Card
from lmsteer.steer.strength import check_counted

FOLDERS, KEY = "LMSTEER_STEERS", "steers"
# What lmsteer's own server lets a request name.
_OWN_SERVER = ("gist", "baseline")
# What it does while it writes.
_OWN_ANSWERS = ("hold", "readings")
# As in PATH, but not the colon of hf://.
_SEPARATOR = re.compile(re.escape(os.pathsep) + "(?!//)")


@cache
def registry() -> SteerRegistry:
    """The steers of this process: those in the folders and of the Hub that ``LMSTEER_STEERS`` names, all of one base.

    Raises:
        SteerError: the variable is empty, names something that is neither a folder nor an id of the Hub, or a steer
            cannot be fetched.
    """
    sources = [source for source in _SEPARATOR.split(os.environ.get(FOLDERS, "")) if source]
    if not sources:
        raise SteerError(f"this server has no steers: the environment variable {FOLDERS} is empty.")
    found = SteerRegistry(sources, _SameBase())
    os.environ[FOLDERS] = os.pathsep.join(found.sources)  # the processes that vLLM starts take the same versions
    return found


def parse_steering(extra_args: Mapping[str, Any] | None, *, recall: bool = False) -> Asked:
    """The steers, strengths and limits in a request's ``vllm_xargs``; all are empty if it names no steer.

    Args:
        extra_args: the request's extra arguments.
        recall: use the last version of steers that have been deleted.

    Raises:
        SteerError: the strengths cannot be parsed, or act in a part of an answer alone; there is no such steer, or it
            acts inside the model; a limit is out of range, or is ``fresh``; or the request has a gist, a baseline or a
            hold, or asks for readings.
    """
    extra_args = extra_args or {}
    if wrong := [key for key in extra_args if key != KEY and key.lower().startswith("steer")]:
        raise SteerError(f"unknown argument {wrong[0]!r}: write {KEY!r}, like {{{KEY!r}: 'sentiment=2.5'}}.")
    if own := [key for key in _OWN_SERVER if key in extra_args]:
        raise SteerError(f"a {own[0]} stands before a prompt in lmsteer's own server alone; in vLLM, leave it out.")
    if done := [key for key in _OWN_ANSWERS if key in extra_args]:
        raise SteerError(f"{done[0]!r} is what lmsteer's own server does; in vLLM, leave it out.")
    if KEY not in extra_args:
        return NOTHING
    notation = extra_args[KEY]
    if not isinstance(notation, str):
        raise SteerError(f"{KEY} must be a text like 'sentiment=2.5,toxicity=1', not {notation!r}.")
    steers, strengths = registry().steering(notation, recall=recall)
    for steer in steers.values():
        if steer.sites:
            raise SteerError(
                f"{steer.card.title} acts inside the model: on a server with --enable-lora, name the model "
                f"'{steer.card.name}@2' in place of a strength, if it acts at linear layers."
            )
    check_counted(strengths, "vLLM")
    return Asked(steers, strengths, _limits(extra_args))


def _limits(extra_args: Mapping[str, Any]) -> Limits:
    """The limits of a request.

    Raises:
        SteerError: one is no number, or out of range; or it is ``fresh``.
    """
    given = {field.name: extra_args[field.name] for field in fields(Limits) if field.name in extra_args}
    if "fresh" in given:
        raise SteerError("'fresh' is a limit that lmsteer's own server has; in vLLM, leave it out.")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SteerError(f"{name!r} must be a number, not {value!r}.")
    try:
        return Limits(**given)
    except DataError as error:
        raise SteerError(str(error)) from error


class _SameBase:
    """Refuses a card of another base than the first card's that is no kin of it.

    That it is the served model is checked by the worker.
    """

    def __init__(self) -> None:
        self._first: Card | None = None

    def __call__(self, card: Card) -> None:
        self._first = self._first or card
        if not self._first.shares_base(card):
            raise SteerError(f"steer {card.name!r} has another base model ({card.base}) than the other steers here.")
