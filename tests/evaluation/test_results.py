"""Results: metrics of scored continuations, and confidence intervals over prompts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from lmsteer.evaluation.conditions import Unsteered
from lmsteer.evaluation.intervals import Estimate, mean_estimate
from lmsteer.evaluation.report import report
from lmsteer.evaluation.results import ConditionResult, ScoredContinuation, summarize
from lmsteer.util.files import finite


def test_intervals_resample_prompts_with_all_their_continuations():
    random = torch.Generator().manual_seed(1)
    rows = [
        ScoredContinuation(prompt, "", "", float(torch.rand((), generator=random)), -float(prompt + k), 1 + prompt)
        for prompt in range(12)
        for k in range(1 + prompt % 3)
    ]
    result = summarize(Unsteered(), rows, is_probability=True)
    groups = [[row for row in rows if row.prompt_index == prompt] for prompt in range(12)]

    def score(drawn):
        return np.mean([np.mean([row.score for row in groups[k]]) for k in drawn])

    def perplexity(drawn):
        nats = -sum(row.log_likelihood for k in drawn for row in groups[k])
        return np.exp(nats / sum(row.tokens for k in drawn for row in groups[k]))

    for estimate, statistic in ((result.score, score), (result.perplexity, perplexity)):
        rng = np.random.default_rng(0)
        expected = bootstrap((np.arange(12),), statistic, n_resamples=1000, vectorized=False, method="BCa", rng=rng)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected.confidence_interval))
        assert estimate.mean == pytest.approx(statistic(range(12)))
        assert estimate.low < estimate.mean < estimate.high


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=8))
def test_every_estimate_is_finite_within_the_values_and_the_same_again(values):
    estimate = mean_estimate(values)
    assert estimate == mean_estimate(values)
    assert min(values) <= estimate.low <= estimate.high <= max(values)
    assert estimate.mean == pytest.approx(np.mean(values))


def test_intervals_of_equal_values_and_of_one_value_have_no_width():
    assert mean_estimate([0.3] * 5) == Estimate(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3))
    assert mean_estimate([0.7]) == Estimate(0.7, 0.7, 0.7)


def test_results_without_any_token_have_no_perplexity():
    rows = [ScoredContinuation(0, "a", "", 0.5, 0.0, 0), ScoredContinuation(1, "b", "", 0.5, 0.0, 0)]
    result = summarize(Unsteered(), rows, is_probability=True)
    assert result.score.mean == 0.5
    assert result.probability_any_above.mean == result.probability_any_below.mean == 0
    assert result.rep_3 == 0
    again = ConditionResult.from_json(json.loads(json.dumps(finite(result.to_json()))))
    assert math.isnan(again.perplexity.mean)
    assert all(map(math.isnan, again.distinct))
    assert again.score == result.score


def test_scores_that_are_no_probabilities_have_no_middle():
    rows = [ScoredContinuation(0, "a", "b c", 31.0, -2.0, 2), ScoredContinuation(1, "a", "b", 12.0, -2.0, 2)]
    result = summarize(Unsteered(), rows, is_probability=False)
    assert result.score.mean == 21.5
    assert math.isnan(result.probability_any_above.mean)
    steered = replace(result, name="s=+1", method="s", strength=1.0)
    metadata = {"scorer": "words", "steers": "s", "model": "m", "perplexity model": "m"}
    assert "<td>–</td>" in report([result, steered], metadata)
