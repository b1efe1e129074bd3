"""What the strength of a steer can be: a number, a number within a window, or a reading that is to be held.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.platt import PlattScaling
from lmsteer.steer.window import ALL, Part, Window


@dataclass(frozen=True)
class Windowed:
    """A strength that acts at some tokens of a continuation only; its notation is ``3@10..``.

    Attributes:
        strength: the strength.
        window: at which tokens it acts.
    """

    strength: float
    window: Window

    def __str__(self) -> str:
        return f"{number(self.strength)}@{self.window}"

    def __format__(self, spec: str) -> str:
        return f"{self.strength:{spec}}@{self.window}" if spec else str(self)


@dataclass(frozen=True)
class Hold:
    """A reading that is held at a level: after each token, the strength of the next is set by what is missing.

    The reading is the probability that the continuation so far has a positive label, by the steer's own reader: its
    held-out Platt scaling of the evidence of the tokens.

    Attributes:
        level: the probability to hold, between 0 and 1.
        most: the largest strength, up or down; None for the steer's safe range.
        window: at which tokens the steer acts; the reading is of these.

    Raises:
        SteerError: the level or the largest strength is out of range.
    """

    level: float
    most: float | None = None
    window: Window = ALL

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise SteerError(f"a hold's level is a probability above 0 and below 1, not {number(self.level)}.")
        if self.most is not None and not 0 < self.most < math.inf:
            raise SteerError(f"a hold's max is a strength above 0, not {number(self.most)}.")

    def __str__(self) -> str:
        most = "" if self.most is None else f"@max{number(self.most)}"
        return f"{number(self.level)}{most}{'' if self.window == ALL else f'@{self.window}'}"

    def __format__(self, spec: str) -> str:
        return f"hold {self!s}"

    def bounds(self, card: Card) -> tuple[float, float]:
        """The lowest and the highest strength.

        Raises:
            SteerError: there is no ``most``, and the card has no safe range, or one that holds 0 alone.
        """
        if self.most is not None:
            return -self.most, self.most
        if card.safe_range is None:
            raise SteerError(
                f"steer {card.name!r} has no safe range that a hold could keep to: give the largest strength, like "
                f"{card.name}={number(self.level)}@max4, or find the range with `lmsteer calibrate`."
            )
        if card.safe_range == (0, 0):
            raise SteerError(
                f"the safe range of steer {card.name!r} is 0 to 0, so that a hold that keeps to it would do nothing: "
                f"give the largest strength, like {card.name}={number(self.level)}@max4."
            )
        return card.safe_range

    def evidence(self, card: Card) -> float:
        """The evidence (in nats) that a text at the level has.

        Raises:
            SteerError: the card has no reader, or one that does not tell positive labels from negative ones.
        """
        platt = PlattScaling.from_held_out(card.held_out)
        if platt is None or not platt.slope > 0 or not math.isfinite(platt.offset):
            raise SteerError(
                f"steer {card.name!r} has no reader, so that its reading cannot be held: its card has no held-out "
                "slope and offset, by which evidence becomes a probability; `lmsteer fit` measures them."
            )
        return platt.evidence(self.level)


AnyStrength = float | Windowed | Hold
"""The strength of a steer: a number acts at all tokens."""
Strengths = Mapping[str, AnyStrength]
"""The strength of each steer, by name."""


def number(value: float) -> str:
    """A number as briefly as it can be written to be read as the same."""
    return short if float(short := f"{value:g}") == value else repr(float(value))


def window_of(strength: AnyStrength) -> Window:
    """At which tokens a strength acts."""
    return strength.window if isinstance(strength, Windowed | Hold) else ALL


def parts_of(settings: Iterable[Strengths]) -> set[Part]:
    """The parts of a chat's answer in which strengths act, of those that act in one alone."""
    return {window_of(strength).part for setting in settings for strength in setting.values()} - {"all"}


def size_of(strength: AnyStrength) -> float:
    """The strength as a number: the whole one within its window, and 1 for a hold, which sets its own."""
    return 1.0 if isinstance(strength, Hold) else strength.strength if isinstance(strength, Windowed) else strength


def sizes_of(strengths: Strengths) -> dict[str, float]:
    """The strengths as numbers."""
    return {name: size_of(strength) for name, strength in strengths.items()}


def extremes_of(strength: AnyStrength) -> set[float]:
    """The strengths farthest from 0 that may act; none where a hold keeps to the safe range."""
    if isinstance(strength, Hold):
        return set() if strength.most is None else {-strength.most, strength.most}
    return {size_of(strength)}


def strengths_json(strengths: Strengths) -> dict[str, float | str]:
    """Strengths for a file or a response: numbers, and the notations of others: ``3@10..``, ``hold 0.8``."""
    return {
        name: f"{strength}" if isinstance(strength, Windowed | Hold) else strength
        for name, strength in strengths.items()
    }


def check_strengths(cards: Mapping[str, Card], strengths: Strengths) -> None:
    """Refuse holds of steers that cannot be held.

    Raises:
        SteerError: a steer has no reader; or no safe range, and its hold no largest strength.
    """
    for name, strength in strengths.items():
        if isinstance(strength, Hold) and name in cards:
            strength.evidence(cards[name])
            strength.bounds(cards[name])


def check_counted(strengths: Strengths, what: str) -> None:
    """Refuse strengths that depend on more than the number of a token: holds, and windows on a part of an answer.

    Args:
        strengths: the strengths.
        what: what is to be steered, for the message.

    Raises:
        SteerError: a strength acts in one part of an answer, or a reading is held.
    """
    for name, strength in strengths.items():
        if isinstance(strength, Hold):
            raise SteerError(f"{name}={strength:g}: {what} holds no readings; leave out the hold.")
        if (part := window_of(strength).part) != "all":
            raise SteerError(
                f"{name}={strength:g}: {what} does not know an answer's parts; leave out @{part}, or write a window "
                "that counts tokens, such as @10.. or @..40."
            )


def constant(strengths: Strengths, what: str) -> dict[str, float]:
    """Strengths that act at all tokens.

    Args:
        strengths: the strengths.
        what: what takes no others, for the message.

    Raises:
        SteerError: a strength has a window, or a reading is held.
    """
    for name, strength in strengths.items():
        if isinstance(strength, Windowed | Hold):
            kind = "a hold" if isinstance(strength, Hold) else "a window"
            raise SteerError(f"{name}={strength:g}: {what} takes strengths that act at all tokens; leave out {kind}.")
    return sizes_of(strengths)
