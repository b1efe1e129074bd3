"""Steers and strengths as they are written on the command line; the factors are read last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lmsteer
from lmsteer.cli.app import warn
from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.lookup import find_card
from lmsteer.steer.notation import StrengthSettings, outside_safe_range, parse_strengths
from lmsteer.steer.strength import AnyStrength, constant

if TYPE_CHECKING:
    from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class RequestedSteers:
    """Steers and the combinations of their strengths.

    Attributes:
        cards: the steers' cards by name.
        settings: a strength for each steer, in every combination.
    """

    cards: dict[str, Card]
    settings: StrengthSettings

    def steers(self) -> dict[str, Steer]:
        """Load the steers, with their factors.

        Raises:
            SteerError: one is damaged.
        """
        return {name: lmsteer.find_steer(name) for name in self.cards}

    def single(self, what: str) -> dict[str, AnyStrength]:
        """The strengths, if there is one for each steer.

        Raises:
            SteerError: a steer has several strengths; ``what`` names what takes only one.
        """
        if len(self.settings) > 1:
            raise SteerError(f"{what} takes one strength of each steer.")
        return self.settings[0]

    def constant(self, what: str) -> dict[str, float]:
        """The strengths, if there is one for each steer that acts at all tokens.

        Raises:
            SteerError: a steer has several strengths, or one within a window; ``what`` names what takes none of these.
        """
        return constant(self.single(what), what)


def parse_steering(notations: Sequence[str], holds: Sequence[str] = (), *, warned: bool = True) -> RequestedSteers:
    """Read ``NAME=STRENGTH`` and ``NAME=LEVEL`` notations, and warn of strengths outside a steer's safe range.

    Raises:
        SteerError: a notation cannot be read, or a steer is not found.
    """
    cards, settings = parse_strengths(notations, find_card, holds)
    for warning in outside_safe_range(cards, settings) if warned else ():
        warn(warning)
    return RequestedSteers(cards, settings)
