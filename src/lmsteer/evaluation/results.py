"""The result of a condition: the metrics of the published protocol over its continuations, with confidence intervals.

The names are those of DExperts (Liu et al., 2021): the expected maximum of the score over a prompt's continuations, and
the probability that any of them lies on one side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lmsteer.evaluation.intervals import Estimate, estimate, mean_estimate
from lmsteer.evaluation.metrics import distinct, rep_3
from lmsteer.evaluation.scorers.base import UNDECIDED
from lmsteer.util.records import from_record

if TYPE_CHECKING:
    from lmsteer.evaluation.conditions import Condition

# exp of more is beyond float64.
_MAX_NATS = 700.0
_UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class ScoredContinuation:
    """A continuation with its score and its likelihood.

    Attributes:
        prompt_index: the place of its prompt.
        prompt: the prompt.
        text: the continuation.
        score: the score of the attribute.
        log_likelihood: its log-likelihood after the prompt under the perplexity model, in nats.
        tokens: its number of tokens for the perplexity model.
    """

    prompt_index: int
    prompt: str
    text: str
    score: float
    log_likelihood: float
    tokens: int


@dataclass(frozen=True)
class ConditionResult:
    """The metrics of a condition's continuations.

    Attributes:
        name: the condition's name.
        method: the name of its curve.
        strength: its place on that curve.
        prompts: number of prompts.
        continuations: number of all continuations.
        score: mean score of a continuation.
        expected_max: mean over prompts of the highest score among a prompt's continuations.
        expected_min: mean over prompts of the lowest score.
        probability_any_above: share of prompts with a continuation that scores above one half; nan where scores are not
            probabilities.
        probability_any_below: share of prompts with a continuation that scores below one half; likewise.
        perplexity: perplexity per token under the perplexity model, of all continuations together.
        distinct: dist-1, dist-2 and dist-3, means over prompts.
        rep_3: mean share of a continuation's runs of three words that repeat an earlier one.
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
        """The result as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ConditionResult:
        """The result from its JSON object; null is nan.

        Raises:
            FormatError: a field is missing, or has another type of value.
        """
        return from_record(cls, record)


def summarize(condition: Condition, rows: Sequence[ScoredContinuation], *, is_probability: bool) -> ConditionResult:
    """Compute the metrics of a condition's continuations.

    Args:
        condition: the condition.
        rows: its continuations.
        is_probability: whether their scores are probabilities.
    """
    by_prompt: dict[int, list[ScoredContinuation]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_index, []).append(row)
    groups = list(by_prompt.values())
    scores = [[row.score for row in group] for group in groups]
    above = [float(max(group) > UNDECIDED) for group in scores]
    below = [float(min(group) < UNDECIDED) for group in scores]
    variety = [[distinct([row.text for row in group], n) for group in groups] for n in (1, 2, 3)]
    return ConditionResult(
        condition.name,
        condition.method,
        condition.strength,
        len(groups),
        len(rows),
        score=mean_estimate([fmean(group) for group in scores]),
        expected_max=mean_estimate([max(group) for group in scores]),
        expected_min=mean_estimate([min(group) for group in scores]),
        probability_any_above=mean_estimate(above) if is_probability else _UNKNOWN,
        probability_any_below=mean_estimate(below) if is_probability else _UNKNOWN,
        perplexity=_perplexity(groups),
        distinct=(_mean_known(variety[0]), _mean_known(variety[1]), _mean_known(variety[2])),
        rep_3=fmean(rep_3(row.text) for row in rows),
    )


def _perplexity(groups: Sequence[Sequence[ScoredContinuation]]) -> Estimate:
    """exp of the mean negative log-likelihood per token."""
    log_likelihood = np.array([sum(row.log_likelihood for row in group) for group in groups])
    tokens = np.array([sum(row.tokens for row in group) for group in groups])
    if not tokens.sum():
        return _UNKNOWN
    return estimate(_perplexity_of, log_likelihood, tokens)


def _perplexity_of(log_likelihood: np.ndarray, tokens: np.ndarray, axis: int) -> Any:
    """The perplexity along an axis; prompts without any token count nothing."""
    return np.exp((-log_likelihood.sum(axis) / tokens.sum(axis).clip(min=1)).clip(max=_MAX_NATS))


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan
