"""The card of a steer: its provenance, what it means, and which strengths are safe. It can be read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from lmsteer.errors import WrongBaseError
from lmsteer.util.provenance import Provenance
from lmsteer.util.records import Finite

# The files of a saved steer.
CARD_FILE, FACTORS_FILE = "steer.json", "steer.safetensors"
# Shares by which one value may differ between float32, bfloat16 (8 bits) and float16.
_DTYPE_GAP = 1e-2


class TrialRecord(TypedDict):
    """A strength that ``lmsteer.calibrate`` tried: a ``Trial``, rounded; None stands for nan."""

    strength: float | None
    perplexity: float | None
    rep_3: float | None
    score: float | None


class Calibration(TypedDict, total=False):
    """How a safe range was found.

    Attributes:
        max_perplexity_ratio: the multiple of the unsteered perplexity up to which a strength is safe.
        curve: the strengths that were tried.
        target: the mean score that was asked for, if one was.
        target_strength: with a target, the safe strength that reaches it; None if none does.
    """

    max_perplexity_ratio: float
    curve: list[TrialRecord]
    target: float
    target_strength: Finite | None


@dataclass(frozen=True, kw_only=True)
class Card(Provenance):
    """A steer's card.

    Attributes:
        name: the name of the style dimension.
        label: what strength +1 means, in words.
        safe_range: the lowest and the highest strength at which text stays sound; None if nobody measured it.
        calibration: how the safe range was found (``lmsteer.calibrate``); empty if nobody measured it.
        head_sample: some values of the base's output embedding, by which an engine that has the weights in another
            layout recognises the base.
        origin: the Hub id, with its commit, that the steer was fetched from, or that it was made from one of; empty if
            it never was on the Hub.
    """

    name: str
    label: str = ""
    safe_range: tuple[Finite, Finite] | None = None
    calibration: Calibration = field(default_factory=Calibration)
    head_sample: tuple[Finite, ...] = ()
    origin: str = ""

    @property
    def title(self) -> str:
        """What the steer is called in an error message."""
        return f"steer {self.name!r}"

    def unmeasured(self) -> Card:
        """The card of another steer made of this one, of which nothing is measured."""
        return replace(self, held_out={}, safe_range=None, calibration={})

    def check_head(self, sample: Mapping[int, float]) -> None:
        """Refuse another base by some values of its output embedding, whose dtype may be another.

        Raises:
            WrongBaseError: a value differs, or the card has none.
        """
        if len(self.head_sample) <= max(sample, default=0):
            raise WrongBaseError(f"the card of {self.title} has no whole sample of its base's head: fit it again.")
        for place, value in sample.items():
            expected = self.head_sample[place]
            if not abs(value - expected) <= _DTYPE_GAP * max(abs(expected), 1e-3):
                raise WrongBaseError(
                    f"{self.title} was fitted on {self.base!r} (fingerprint {self.base_fingerprint}), whose output "
                    f"embedding is another than that of the model at hand ({expected:g} against {value:g})."
                )
