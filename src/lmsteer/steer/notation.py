"""Notation: how steers and their strengths are written, on the command line and in requests.

::

    sentiment=2.5          a strength
    sentiment=-3,0,3       several, each to be taken in turn
    sentiment=50%          a share of the strengths found safe; sentiment=-100% is the lowest of them
    sentiment=auto         the strength that `lmsteer calibrate` found to do
    sentiment@2.5          as the name of a model, for clients that can only choose one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer

StrengthSettings = list[dict[str, float]]
# Far beyond any use, and far within float32.
_MOST = 1e6


def parse_strengths(
    notations: Sequence[str], find: Callable[[str], Steer]
) -> tuple[dict[str, Steer], StrengthSettings]:
    """Read ``NAME=S`` or ``NAME=S1,S2,..`` a steer: the steers, and every combination of their strengths.

    Args:
        notations: one a steer.
        find: gives the steer of a name.

    Raises:
        SteerError: a part is not of that form, a steer stands twice or is not found, or a strength is not a finite
            number, or relative to a safe range that the steer's card does not have.
    """
    dials: dict[str, list[str]] = {}
    for notation in notations:
        name, equals, strengths = notation.rpartition("=")
        dial = [strength.strip() for strength in strengths.split(",")]
        if not equals or not name or not all(map(_is_strength, dial)):
            raise SteerError(
                f"cannot read {notation!r}: write NAME=STRENGTH, like sentiment=2.5, with finite numbers up to a "
                "million, percents of the safe range (sentiment=50%), or auto."
            )
        if name in dials:
            raise SteerError(f"steer {name!r} is named twice; give it several strengths as {name}=1,2.")
        dials[name] = dial
    steers = {name: find(name) for name in dials}
    values = [[strength_of(dial, steers[name].card) for dial in dials[name]] for name in dials]
    return steers, [dict(zip(dials, setting, strict=True)) for setting in product(*values)]


def strength_of(notation: str, card: Card) -> float:
    """The strength that ``2.5``, ``50%`` or ``auto`` stands for.

    Raises:
        SteerError: the card has no safe range to take it from, or calibration did not reach what it was asked for.
    """
    if notation != "auto" and not notation.endswith("%"):
        return float(notation)
    if card.safe_range is None:
        raise SteerError(
            f"steer {card.name!r} has no safe range that {notation} could be of; `lmsteer calibrate` finds one."
        )
    if notation == "auto":
        found = card.calibration.get("target_strength", card.safe_range[1])
        if found is None:
            raise SteerError(
                f"no safe strength of steer {card.name!r} reached its target {card.calibration.get('target')}: "
                "name a strength."
            )
        return float(found)
    share = float(notation.removesuffix("%")) / 100
    low, high = card.safe_range
    return share * (high if share > 0 else -low)


def of_model_name(name: str) -> str:
    """The notation that a model's name stands for: ``sentiment@2.5``, or ``sentiment@2.5+toxicity@1`` of several."""
    return ",".join("=".join(part.rsplit("@", 1)) for part in name.split("+"))


def outside_safe_range(steers: Mapping[str, Steer], settings: StrengthSettings) -> list[str]:
    """What to warn of: for each steer, strengths outside the range that was found safe."""
    found = []
    for name, steer in steers.items():
        low, high = steer.card.safe_range or (-math.inf, math.inf)
        outside = {setting[name] for setting in settings if not low <= setting[name] <= high}
        if outside:
            told = ", ".join(f"{strength:+g}" for strength in sorted(outside))
            found.append(f"{name}={told} lies beyond what was found safe, {low:+g} to {high:+g}: expect worse text.")
    return found


def _is_strength(notation: str) -> bool:
    try:
        return notation == "auto" or abs(float(notation.removesuffix("%"))) <= _MOST
    except ValueError:
        return False
