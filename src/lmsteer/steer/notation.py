"""Notation: how steers and their strengths are written, on the command line and in requests.

::

    sentiment=2.5          one strength
    sentiment=-3,0,3       several strengths, each used in turn
    sentiment=50%          a share of the safe range; -100% is its lowest strength
    sentiment=auto         the strength that `lmsteer calibrate` found for the target
    sentiment=3@10..       a strength within a window (``lmsteer.steer.window``); each of a list has its own
    sentiment@2.5@10..     the same as the name of a model, for clients that can only choose a model

    sentiment=0.8          of a hold: the reading to hold
    sentiment=0.8@max4     and the largest strength; a window may follow, as in 0.8@answer and 0.8@max4@answer

Only cards are needed to read it, not the factors of the steers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.strength import AnyStrength, Hold, Windowed, check_strengths, extremes_of
from lmsteer.steer.window import ALL, Window

StrengthSettings = list[dict[str, AnyStrength]]
# Far larger than any useful strength, and far smaller than what float32 can hold.
_LARGEST = 1e6


def parse_strengths(
    notations: Sequence[str], find: Callable[[str], Card], holds: Sequence[str] = ()
) -> tuple[dict[str, Card], StrengthSettings]:
    """Read ``NAME=S`` or ``NAME=S1,S2,..`` for each steer, and ``NAME=LEVEL`` for each that is held.

    Args:
        notations: one notation for each steer with strengths.
        find: returns the card of the steer with a name.
        holds: one notation for each steer whose reading is held.

    Returns:
        The steers' cards by name, and every combination of their strengths.

    Raises:
        SteerError: a notation cannot be read, a steer is named twice or not found, a strength is not a finite number,
            or it is relative to a safe range that the card does not have; a hold is of a steer without a reader, or
            without a safe range or largest strength.
    """
    written: dict[str, list[tuple[str, Window]]] = {}
    for notation in notations:
        name, equals, listed = notation.rpartition("=")
        strengths = [strength.strip().partition("@") for strength in listed.split(",")]
        if not equals or not name or not all(_is_strength(strength) for strength, *_ in strengths):
            raise SteerError(
                f"cannot read {notation!r}: write NAME=STRENGTH, like sentiment=2.5, with finite numbers up to a "
                "million, percents of the safe range (sentiment=50%), or auto; a window may follow (sentiment=3@10..)."
            )
        if name in written:
            raise SteerError(f"steer {name!r} is named twice; give it several strengths as {name}=1,2.")
        written[name] = [
            (strength, _parse_window(window, notation) if at else ALL) for strength, at, window in strengths
        ]
    held = dict(map(_parse_hold, holds))
    if len(held) < len(holds) or held.keys() & written.keys():
        raise SteerError("a steer is held twice, or it is held and has a strength as well: choose one of them.")
    cards = {name: find(name) for name in (*written, *held)}
    check_strengths(cards, held)
    values = [[_within(strength_of(s, cards[name]), window) for s, window in written[name]] for name in written]
    return cards, [{**dict(zip(written, setting, strict=True)), **held} for setting in product(*values)]


def _within(strength: float, window: Window) -> AnyStrength:
    return strength if window == ALL else Windowed(strength, window)


def _parse_window(notation: str, within: str) -> Window:
    try:
        return Window.parse(notation)
    except SteerError as error:
        raise SteerError(f"{within}: {error}") from error


def _parse_hold(notation: str) -> tuple[str, Hold]:
    """The name and the hold of ``NAME=LEVEL``, ``NAME=LEVEL@maxS``, ``NAME=LEVEL@WINDOW`` or both."""
    name, equals, written = notation.rpartition("=")
    level, *rest = written.split("@")
    most = [rest.pop(0).removeprefix("max")] if rest and rest[0].startswith("max") else []
    if not equals or not name or not all(map(_is_number, [level, *most])) or len(rest) > 1:
        raise SteerError(
            f"cannot read the hold {notation!r}: write NAME=LEVEL, like sentiment=0.8, with a probability between 0 "
            "and 1; the largest strength may follow (sentiment=0.8@max4), and a window (sentiment=0.8@answer)."
        )
    window = _parse_window(rest[0], notation) if rest else ALL
    try:
        return name, Hold(float(level), float(most[0]) if most else None, window)
    except SteerError as error:
        raise SteerError(f"{notation}: {error}") from error


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
    return ",".join(map(_of_part, name.split("+")))


def _of_part(part: str) -> str:
    """The notation of ``NAME@STRENGTH`` or ``NAME@STRENGTH@WINDOW``; a name may have the sign @, too."""
    name, *rest = part.rsplit("@", 2)
    if len(rest) == 2 and _is_strength(rest[0]) and not _is_strength(rest[1]):
        return f"{name}={rest[0]}@{rest[1]}"
    return "=".join(part.rsplit("@", 1))


def outside_safe_range(cards: Mapping[str, Card], settings: StrengthSettings) -> list[str]:
    """A warning for each steer that has strengths outside its safe range."""
    warnings = []
    for name, card in cards.items():
        low, high = card.safe_range or (-math.inf, math.inf)
        reached = {extreme for setting in settings for extreme in extremes_of(setting[name])}
        outside = {strength for strength in reached if not low <= strength <= high}
        if outside:
            strengths = ", ".join(f"{strength:+g}" for strength in sorted(outside))
            warnings.append(
                f"{name}={strengths} lies outside the safe range, {low:+g} to {high:+g}: expect worse text."
            )
    return warnings


def _is_strength(notation: str) -> bool:
    return notation == "auto" or _is_number(notation.removesuffix("%"))


def _is_number(notation: str) -> bool:
    try:
        return abs(float(notation)) <= _LARGEST
    except ValueError:
        return False
