"""The card of a steer: its provenance, what it means, and which strengths are safe. It can be read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from lmsteer.errors import WrongBaseError
from lmsteer.util.progress import notice_once
from lmsteer.util.provenance import Base, Provenance
from lmsteer.util.records import Finite

# The files of a saved steer.
CARD_FILE, FACTORS_FILE = "steer.json", "steer.safetensors"
# Shares by which one value may differ between float32, bfloat16 (8 bits) and float16.
_DTYPE_GAP = 1e-2
# The most that quantisation moves an output embedding, relative to its size. Four bits with a scale for each block of
# 32 weights have steps of an eighth of a block's largest weight (Q4_0; Q4_1 has finer ones). That weight is 2.2 times a
# usual one, so that rounding is an error of 2.2 / 8 / sqrt(12) = 0.08; blocks of trained heads are uneven, which makes
# it 0.09 to 0.11. Sixteen values scatter about that: of a thousand samples, two to eight lie above 0.25. Heads of
# unrelated models differ by 1.4.
QUANTISED = 0.25


class _Tried(TypedDict):
    strength: float | None
    perplexity: float | None
    rep_3: float | None
    score: float | None


class TrialRecord(_Tried, total=False):
    """A strength that ``lmsteer.calibrate`` tried: a ``Trial``, rounded; None stands for nan."""

    accuracy: float | None


class Calibration(TypedDict, total=False):
    """How a safe range was found.

    Attributes:
        max_perplexity_ratio: the multiple of the unsteered perplexity up to which a strength is safe.
        curve: the strengths that were tried.
        kept: the least share of the accuracy on minimal pairs that was asked for, if one was.
        target: the mean score that was asked for, if one was.
        target_strength: with a target, the safe strength that reaches it; None if none does.
    """

    max_perplexity_ratio: float
    curve: list[TrialRecord]
    kept: float
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

    def check_base(self, base: Base) -> None:
        """Refuse a model or a tokenizer other than those of the steer; a kin of its base is accepted with a notice.

        A kin has the same tokenizer, and an output embedding that differs by no more than quantisation does: the base
        before or after it was quantised.

        Raises:
            WrongBaseError: the model is neither the base nor a kin of it.
        """
        same_tokenizer = self.tokenizer_fingerprint == base.tokenizer_fingerprint
        distance = self._distance(base.head_sample)
        if self.base_fingerprint != base.fingerprint and same_tokenizer and distance <= QUANTISED:
            self._tell_kin(repr(base.name), distance)
        else:
            super().check_base(base)

    def check_head(self, sample: Mapping[int, float]) -> None:
        """Refuse another base by some values of its output embedding alone, where nothing else of it is known.

        Their dtype may be another. A kin of the base is accepted with a notice, as by ``check_base``.

        Raises:
            WrongBaseError: the values are those of another model, or the card has none.
        """
        if len(self.head_sample) <= max(sample, default=0):
            raise WrongBaseError(f"the card of {self.title} has no whole sample of its base's head: fit it again.")
        differing = {k: value for k, value in sample.items() if not _is_rounded(value, self.head_sample[k])}
        distance = self._distance(sample)
        if differing and not distance <= QUANTISED:
            place, value = next(iter(differing.items()))
            raise WrongBaseError(
                f"{self.title} was fitted on {self.base!r} (fingerprint {self.base_fingerprint}), whose output "
                f"embedding is another than that of the model at hand ({self.head_sample[place]:g} against {value:g})."
            )
        if differing:
            self._tell_kin("the model at hand", distance)

    def shares_base(self, other: Card) -> bool:
        """Whether another steer's base is this one's, or a kin of it, so that both can act at once."""
        if self.tokenizer_fingerprint != other.tokenizer_fingerprint:
            return False
        same_weights = self.base_fingerprint == other.base_fingerprint
        return same_weights or self._distance(dict(enumerate(other.head_sample))) <= QUANTISED

    def _distance(self, sample: Mapping[int, float]) -> float:
        """How far some values are from those of the base's head, relative to the size of a value; inf if unknown."""
        size = math.hypot(*self.head_sample) / math.sqrt(max(1, len(self.head_sample)))
        if not sample or not size or max(sample) >= len(self.head_sample):
            return math.inf
        differences = [value - self.head_sample[k] for k, value in sample.items()]
        return math.hypot(*differences) / math.sqrt(len(sample)) / size

    def _tell_kin(self, model: str, distance: float) -> None:
        notice_once(
            f"steers of {self.base!r} act on {model}, which is kin to it: their output embeddings differ by "
            f"{distance:.1%}, no more than quantisation does. Their other weights are not compared; `lmsteer verify` "
            "measures what differs."
        )


def _is_rounded(value: float, expected: float) -> bool:
    """Whether two values are the same but for the rounding of their dtypes."""
    return abs(value - expected) <= _DTYPE_GAP * max(abs(expected), 1e-3)
