"""Notation: how steers and their strengths are written, on the command line and in requests.

::

    sentiment=2.5          one strength
    sentiment=-3,0,3       several strengths, each used in turn
    sentiment=50%          a share of the safe range; -100% is its lowest strength
    sentiment=auto         the strength that `lmsteer calibrate` found for the target
    sentiment@2.5          the same as the name of a model, for clients that can only choose a model

Only cards are needed to read it, not the factors of the steers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card

StrengthSettings = list[dict[str, float]]
# Far larger than any useful strength, and far smaller than what float32 can hold.
_LARGEST = 1e6


def parse_strengths(notations: Sequence[str], find: Callable[[str], Card]) -> tuple[dict[str, Card], StrengthSettings]:
    """Read ``NAME=S`` or ``NAME=S1,S2,..`` for each steer.

    Args:
        notations: one notation for each steer.
        find: returns the card of the steer with a name.

    Returns:
        The steers' cards by name, and every combination of their strengths.

    Raises:
        SteerError: a notation cannot be read, a steer is named twice or not found, a strength is not a finite number,
            or it is relative to a safe range that the card does not have.
    """
    written: dict[str, list[str]] = {}
    for notation in notations:
        name, equals, listed = notation.rpartition("=")
        strengths = [strength.strip() for strength in listed.split(",")]
        if not equals or not name or not all(map(_is_strength, strengths)):
            raise SteerError(
                f"cannot read {notation!r}: write NAME=STRENGTH, like sentiment=2.5, with finite numbers up to a "
                "million, percents of the safe range (sentiment=50%), or auto."
            )
        if name in written:
            raise SteerError(f"steer {name!r} is named twice; give it several strengths as {name}=1,2.")
        written[name] = strengths
    cards = {name: find(name) for name in written}
    values = [[strength_of(strength, cards[name]) for strength in written[name]] for name in written]
    return cards, [dict(zip(written, setting, strict=True)) for setting in product(*values)]


def strength_of(notation: str, card: Card) -> float:
    """The strength that ``2.5``, ``50%`` or ``auto`` stands for.

    Raises:
        SteerError: the card has no safe range, or calibration did not reach its target.
    """
    if notation != "auto" and not notation.endswith("%"):
        return float(notation)
    if card.safe_range is None:
        raise SteerError(
            f"steer {card.name!r} has no safe range that {notation} could be relative to; "
            "`lmsteer calibrate` finds one."
        )
    if notation == "auto":
        strength = card.calibration.get("target_strength", card.safe_range[1])
        if strength is None:
            raise SteerError(
                f"no safe strength of steer {card.name!r} reached its target {card.calibration.get('target')}: "
                "name a strength."
            )
        return float(strength)
    share = float(notation.removesuffix("%")) / 100
    low, high = card.safe_range
    return share * (high if share > 0 else -low)


def of_model_name(name: str) -> str:
    """The notation that a model's name stands for: ``sentiment@2.5``, or ``sentiment@2.5+toxicity@1`` for several."""
    return ",".join("=".join(part.rsplit("@", 1)) for part in name.split("+"))


def outside_safe_range(cards: Mapping[str, Card], settings: StrengthSettings) -> list[str]:
    """A warning for each steer that has strengths outside its safe range."""
    warnings = []
    for name, card in cards.items():
        low, high = card.safe_range or (-math.inf, math.inf)
        outside = {setting[name] for setting in settings if not low <= setting[name] <= high}
        if outside:
            strengths = ", ".join(f"{strength:+g}" for strength in sorted(outside))
            warnings.append(
                f"{name}={strengths} lies outside the safe range, {low:+g} to {high:+g}: expect worse text."
            )
    return warnings


def _is_strength(notation: str) -> bool:
    try:
        return notation == "auto" or abs(float(notation.removesuffix("%"))) <= _LARGEST
    except ValueError:
        return False
