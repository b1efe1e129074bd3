"""calibrate: which strengths are safe, and which one does what is wanted.

A strength is safe where the model still writes its language: where the perplexity of its text, under the unsteered
model, is at most a given multiple of unsteered text's, and where it loops hardly more often. Strengths are tried
outwards from 1, by doubling until one is not safe, or inwards, by halving until one is; the border is then found
between the two. The draws are the same for every strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from lmsteer.errors import DataError
from lmsteer.evaluation.metrics import loops, repetition
from lmsteer.evaluation.scorers.base import Scores
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate, perplexity
from lmsteer.model.lm import LM
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, Step, no_progress

# Strengths beyond which, and below which, none is looked for.
MOST, _LEAST = 64.0, 1 / 64
# Halvings between the last safe strength and the first that is not: a sixteenth of the last doubling.
_HALVINGS = 4
# Trials that it usually takes.
_EXPECTED = 16
# A wanted level is looked for at so many strengths of the safe range.
_LEVELS = 8


@dataclass(frozen=True)
class Trial:
    """A strength that was tried.

    Attributes:
        strength: of the steer.
        perplexity: of the continuations under the unsteered model.
        repetition: mean share of their runs of three words that they had before.
        level: of the attribute, or nan where none was asked for.
    """

    strength: float
    perplexity: float
    repetition: float
    level: float


@dataclass(frozen=True)
class SafeRange:
    """What calibration found.

    Attributes:
        low: the lowest safe strength, at most 0; -``MOST`` says that all that were tried are safe.
        high: the highest, at least 0.
        ratio: that the perplexity may rise by.
        level: of the attribute that was wanted; None if none was.
        reached: the safe strength nearest to 0 at which the attribute reaches it; None if none does.
        trials: all strengths tried, in order.
    """

    low: float
    high: float
    ratio: float
    level: float | None
    reached: float | None
    trials: list[Trial]

    def on(self, card: Card) -> Card:
        """A card that tells so."""
        curve = [{name: _rounded(value) for name, value in asdict(trial).items()} for trial in self.trials]
        calibration = {"max_perplexity_ratio": self.ratio, "curve": curve}
        calibration |= {"target": self.level, "target_strength": self.reached} if self.level is not None else {}
        return replace(card, safe_range=(self.low, self.high), calibration=calibration)


def calibrate(
    lm: LM,
    steer: Steer,
    prompts: Sequence[str],
    *,
    ratio: float = 1.5,
    attribute: Scores | None = None,
    level: float | None = None,
    n: int = 2,
    max_new_tokens: int = 24,
    seed: int = 0,
    progress: Progress = no_progress,
) -> SafeRange:
    """Find a steer's safe range, and the strength that reaches a wanted level.

    Args:
        lm: the steer's base.
        steer: the steer.
        prompts: to continue.
        ratio: perplexity may rise to this multiple of unsteered text's; above 1.
        attribute: what the level is of: the mean of what it gives the texts.
        level: that is wanted; a level below that of unsteered text is looked for at negative strengths.
        n: continuations a prompt and strength.
        max_new_tokens: of each.
        seed: of the draws.
        progress: what to tell of the work.

    Raises:
        DataError: a ratio of 1 or less, a level without an attribute, or what ``generate`` refuses.
        WrongBaseError: a steer of another base.
    """
    if not 1 < ratio < math.inf:
        raise DataError(f"perplexity cannot be kept under {ratio:g} times the unsteered; give a ratio above 1.")
    if (level is None) != (attribute is None):
        raise DataError("a wanted level is of an attribute: give both, or neither.")
    if level is not None and not math.isfinite(level):
        raise DataError(f"a level of {level:g} cannot be reached.")

    def write(strength: float) -> list[Continuation]:
        settings = [{"s": strength}]
        config = GenerationConfig(n, max_new_tokens, seed=seed, score=True)
        return list(generate(lm, prompts, {"s": steer}, settings, config))

    with progress("trying strengths", _EXPECTED, 0) as step:
        trials = _Trials(write, attribute, step)
        base = trials.at(0.0)

        def is_safe(strength: float) -> bool:
            trial = trials.at(strength)
            return trial.perplexity <= ratio * base.perplexity and not loops(trial.repetition, base.repetition)

        low, high = -_border(lambda size: is_safe(-size)), _border(is_safe)
        reached = None
        if level is not None:
            end = high if level > base.level else low
            reached = _reached([trials.at(end * k / _LEVELS) for k in range(_LEVELS + 1)], level)
    return SafeRange(low, high, ratio, level, reached, [trials.tried[strength] for strength in sorted(trials.tried)])


class _Trials:
    """Strengths as they are tried, each once; ``write`` gives the continuations of one."""

    def __init__(self, write: Callable[[float], list[Continuation]], attribute: Scores | None, step: Step) -> None:
        self._write, self._attribute, self._step = write, attribute, step
        self.tried: dict[float, Trial] = {}

    def at(self, strength: float) -> Trial:
        """The trial of a strength."""
        if strength not in self.tried:
            self.tried[strength] = trial = _trial(strength, self._write(strength), self._attribute)
            self._step(1, f"at {strength:+g} perplexity {trial.perplexity:.1f}")
        return self.tried[strength]


def _trial(strength: float, rows: Sequence[Continuation], attribute: Scores | None) -> Trial:
    texts = [row.text for row in rows]
    level = math.nan
    if attribute is not None:
        levels = attribute(texts)
        level = sum(levels) / len(levels)
    return Trial(strength, perplexity(rows), sum(map(repetition, texts)) / len(texts), level)


def _border(is_safe: Callable[[float], bool]) -> float:
    """The largest safe size, to a sixteenth; ``MOST`` if all are safe, 0 if not even ``_LEAST`` is."""
    good, bad = 0.0, 1.0
    while bad <= MOST and is_safe(bad):
        good, bad = bad, 2 * bad
    while not good and bad > _LEAST:  # a steer of a coarse unit
        good, bad = (bad / 2, bad) if is_safe(bad / 2) else (0.0, bad / 2)
    if not good or bad > MOST:
        return good
    for _ in range(_HALVINGS):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if is_safe(middle) else (good, middle)
    return good


def _reached(trials: Sequence[Trial], level: float) -> float | None:
    """Where levels, from that of strength 0 outwards, first cross a level; by a straight line between two strengths."""
    if level == trials[0].level:
        return trials[0].strength
    up = level > trials[0].level
    for before, after in pairwise(trials):
        if after.level == level or (after.level > level) == up:
            share = (level - before.level) / (after.level - before.level)
            return round(before.strength + share * (after.strength - before.strength), 3)
    return None


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
