"""Trials of strengths: what the text at a strength is like, found once for each strength."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lmsteer.evaluation.metrics import rep_3
from lmsteer.evaluation.scorers.base import ScoreFunction
from lmsteer.generation.generate import Continuation, perplexity
from lmsteer.generation.writing import NotFiniteError
from lmsteer.steer.card import TrialRecord
from lmsteer.util.progress import Step


@dataclass(frozen=True)
class Trial:
    """A strength that was tried.

    Attributes:
        strength: the strength of the steer.
        perplexity: perplexity of the continuations under the unsteered model; nan, and not safe, if logits overflowed.
        rep_3: mean share of repeated runs of three words in a continuation.
        score: mean score of the continuations; nan if no attribute was given.
        accuracy: the share of minimal pairs that the model gets right; nan if none were given.
    """

    strength: float
    perplexity: float
    rep_3: float
    score: float
    accuracy: float = math.nan

    def rounded(self) -> TrialRecord:
        """The trial as a card keeps it."""
        record = TrialRecord(
            strength=_rounded(self.strength),
            perplexity=_rounded(self.perplexity),
            rep_3=_rounded(self.rep_3),
            score=_rounded(self.score),
        )
        return record if math.isnan(self.accuracy) else {**record, "accuracy": _rounded(self.accuracy)}


class Trials:
    """Trials of strengths, each made once.

    Args:
        write: gives the continuations at a strength.
        accuracy: gives the share of minimal pairs that are right at a strength, or nan.
        attribute: gives each text a score, or None.
        step: reports a trial.
    """

    def __init__(
        self,
        write: Callable[[float], list[Continuation]],
        accuracy: Callable[[float], float],
        attribute: ScoreFunction | None,
        step: Step,
    ) -> None:
        self._write, self._accuracy, self._attribute, self._step = write, accuracy, attribute, step
        self._made: dict[float, Trial] = {}

    def at(self, strength: float) -> Trial:
        """The trial of a strength."""
        if strength not in self._made:
            try:
                trial = _trial(strength, self._write(strength), self._attribute)
                trial = replace(trial, accuracy=self._accuracy(strength))
            except NotFiniteError:
                if not strength:
                    raise
                trial = Trial(strength, math.nan, math.nan, math.nan)
            self._made[strength] = trial
            self._step(1, f"at {strength:+g} perplexity {trial.perplexity:.1f}")
        return self._made[strength]

    def in_order(self) -> list[Trial]:
        """All trials, by strength."""
        return [self._made[strength] for strength in sorted(self._made)]


def _trial(strength: float, rows: Sequence[Continuation], attribute: ScoreFunction | None) -> Trial:
    texts = [row.text for row in rows]
    score = math.nan
    if attribute is not None:
        scores = attribute(texts)
        score = sum(scores) / len(scores)
    return Trial(strength, perplexity(rows), sum(map(rep_3, texts)) / len(texts), score)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
