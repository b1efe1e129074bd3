"""Outcomes: means of what was judged, and intervals over prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmsteer.evaluation.conditions import Condition
from lmsteer.evaluation.results import ScoredContinuation, summarize


def test_intervals_are_those_of_prompts_drawn_anew(llama):
    random = torch.Generator().manual_seed(1)
    rows = [
        ScoredContinuation(prompt, "", "", float(torch.rand((), generator=random)), -float(prompt + k), 1 + prompt)
        for prompt in range(12)
        for k in range(1 + prompt % 3)
    ]
    found = summarize(Condition("x", "s", 1.0), rows)
    groups = [[row for row in rows if row.number == prompt] for prompt in range(12)]
    draws = np.random.default_rng(0).integers(12, size=(1000, 12))
    scores, perplexities = [], []
    for draw in draws:
        drawn = [groups[k] for k in draw]
        scores.append(np.mean([np.mean([row.score for row in group]) for group in drawn]))
        nats = -sum(row.log_p for group in drawn for row in group)
        perplexities.append(np.exp(nats / sum(row.tokens for group in drawn for row in group)))
    for figure, drawn in ((found.score, scores), (found.perplexity, perplexities)):
        assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        assert figure.low < figure.mean < figure.high


def test_outcomes_of_nothing_written_have_no_nan_scores(llama):
    rows = [ScoredContinuation(0, "a", "", 0.5, 0.0, 0), ScoredContinuation(1, "b", "", 0.5, 0.0, 0)]
    found = summarize(Condition("x", "steer", 1.0), rows)
    assert found.score.mean == 0.5
    assert found.probability_any_above.mean == found.probability_any_below.mean == 0
    assert found.rep_3 == 0
