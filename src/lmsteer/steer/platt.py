"""Platt scaling: what the evidence of a steer stands for, as a probability. It can be read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmsteer.util.records import number_in


@dataclass(frozen=True)
class PlattScaling:
    """``p(label > 0) = σ(slope · evidence + offset)``.

    Attributes:
        slope: the slope; it is below 1 where the evidence is too strong, because it adds up tokens that repeat each
            other.
        offset: the offset; it is above 0 where a text without evidence is more often a positive one.
    """

    slope: float
    offset: float

    @classmethod
    def from_held_out(cls, held_out: Mapping[str, Any]) -> PlattScaling | None:
        """The scaling among the held-out metrics of a steer's card; None if it has none."""
        slope, offset = number_in(held_out, "slope"), number_in(held_out, "offset")
        return None if slope is None or offset is None else cls(slope, offset)

    def probability(self, evidence: float) -> float:
        """The probability that the label of a text with so much evidence (in nats) is positive."""
        z = self.slope * evidence + self.offset
        return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))

    def evidence(self, probability: float) -> float:
        """The evidence (in nats) of a text whose label is positive with this probability, between 0 and 1."""
        return (math.log(probability / (1 - probability)) - self.offset) / self.slope
