"""The outcome of an arm: what the published protocol tells of its continuations, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from lmsteer.evaluation.conditions import Condition
from lmsteer.evaluation.metrics import distinct, rep_3
from lmsteer.evaluation.scorers.base import UNDECIDED

# Prompts are drawn anew so often, and the middle so much of what comes out is told.
_DRAWS, _MIDDLE = 1000, 0.95
_SEED = 0
# exp of more is no number.
_MOST_NATS = 700.0


@dataclass(frozen=True)
class ScoredContinuation:
    """A continuation with what was found of it.

    Attributes:
        number: of its prompt.
        prompt: what was continued.
        text: the continuation.
        score: of the attribute, 0 to 1.
        log_p: its log-likelihood under the judge, after the prompt.
        tokens: that the judge reads it as.
    """

    number: int
    prompt: str
    text: str
    score: float
    log_p: float
    tokens: int


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts, and the middle 95 % of what other draws of prompts would give."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ConditionResult:
    """What an arm's continuations are like.

    Attributes:
        name: of the arm.
        method: of the arm.
        strength: of the arm.
        prompts: how many.
        continuations: in all.
        score: mean score of a continuation.
        expected_max: mean over prompts of the highest score among its continuations.
        expected_min: of the lowest.
        probability_any_above: share of prompts with a continuation that scores above one half.
        probability_any_below: below one half.
        perplexity: under the judge, a token of all continuations together.
        distinct: dist-1, dist-2, dist-3, means over prompts.
        repetition: mean share of a continuation's runs of three words that it had before.
    """

    name: str
    method: str
    strength: float
    prompts: int
    continuations: int
    score: Estimate
    expected_max: Estimate
    expected_min: Estimate
    probability_any_above: Estimate
    probability_any_below: Estimate
    perplexity: Estimate
    distinct: tuple[float, float, float]
    rep_3: float

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ConditionResult:
        """What ``to_json`` told."""
        figures = {key: Estimate(**value) for key, value in told.items() if isinstance(value, Mapping)}
        return cls(**{**told, **figures, "distinct": tuple(told["distinct"])})


def summarize(arm: Condition, rows: Sequence[ScoredContinuation]) -> ConditionResult:
    """Sum up an arm's continuations."""
    by_prompt: dict[int, list[ScoredContinuation]] = {}
    for row in rows:
        by_prompt.setdefault(row.number, []).append(row)
    groups = list(by_prompt.values())
    scores = [[row.score for row in group] for group in groups]
    variety = [[distinct([row.text for row in group], n) for group in groups] for n in (1, 2, 3)]
    return ConditionResult(
        arm.name,
        arm.method,
        arm.strength,
        len(groups),
        len(rows),
        score=_mean([fmean(group) for group in scores]),
        expected_max=_mean([max(group) for group in scores]),
        expected_min=_mean([min(group) for group in scores]),
        probability_any_above=_mean([float(max(group) > UNDECIDED) for group in scores]),
        probability_any_below=_mean([float(min(group) < UNDECIDED) for group in scores]),
        perplexity=_perplexity(groups),
        distinct=(_known(variety[0]), _known(variety[1]), _known(variety[2])),
        rep_3=fmean(rep_3(row.text) for row in rows),
    )


def _mean(values: Sequence[float]) -> Estimate:
    found = np.asarray(values)
    return _figure(float(found.mean()), found[_draws(len(found))].mean(1))


def _perplexity(groups: Sequence[Sequence[ScoredContinuation]]) -> Estimate:
    """exp of the mean negative log-likelihood a token; prompts are drawn anew with all their tokens."""
    log_p = np.array([sum(row.log_p for row in group) for group in groups])
    tokens = np.array([sum(row.tokens for row in group) for group in groups])
    draws = _draws(len(groups))
    if not tokens.sum():
        return Estimate(math.nan, math.nan, math.nan)
    return _figure(
        math.exp(min(-log_p.sum() / tokens.sum(), _MOST_NATS)),
        np.exp((-log_p[draws].sum(1) / tokens[draws].sum(1).clip(min=1)).clip(max=_MOST_NATS)),
    )


def _figure(mean: float, drawn: np.ndarray) -> Estimate:
    low, high = np.quantile(drawn, [(1 - _MIDDLE) / 2, (1 + _MIDDLE) / 2])
    return Estimate(mean, float(low), float(high))


def _draws(count: int) -> np.ndarray:
    return np.random.default_rng(_SEED).integers(count, size=(_DRAWS, count))


def _known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan
