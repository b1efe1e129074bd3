"""Continuations are scored as the plain model scores them, steered or not, each context read once."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import DataError, WrongBaseError
from lmsteer.generation.writing import NotFiniteError
from lmsteer.reading.continuations import score_continuations
from lmsteer.steer.mix import Mix
from tiny import FAMILIES, inner_steer, random_steer

NOTHING = Mix({}, {})
PAIRS = [([5, 6, 7], [8, 9]), ([5, 6, 7, 8], [11]), ([5, 6, 7, 8], [9]), ([3], [4] * 12), ([1, 2], [7, 7, 7])]


def plainly(lm, pairs, mix):
    """Log-likelihoods and greediness from logits of the steered model, a pair at a time."""
    for context, continuation in pairs:
        ids = torch.tensor([[*context, *continuation]])
        with lm.steered(mix), torch.no_grad():
            log_p = lm.model(ids).logits[0, len(context) - 1 : -1].float().log_softmax(-1)
        own = ids[0, len(context) :]
        yield float(log_p[range(len(own)), own].sum()), bool((log_p.argmax(-1) == own).all())


def mixes(lm):
    style, other = random_steer(lm), random_steer(lm, seed=1)
    yield NOTHING
    yield Mix({"style": style}, {"style": 2.0})
    yield Mix({"style": style, "other": other}, {"style": -1.5, "other": 0.5})


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_models_logits(make_lm, family):
    lm = make_lm(family)
    for mix in mixes(lm):
        found, expected = score_continuations(lm, PAIRS, mix), list(plainly(lm, PAIRS, mix))
        # float32, sums of up to twelve tokens.
        torch.testing.assert_close([s.log_p for s in found], [log_p for log_p, _ in expected], rtol=1e-4, atol=1e-4)
        assert [s.is_greedy for s in found] == [greedy for _, greedy in expected]


def test_steers_inside_the_model_act(llama):
    mix = Mix({"style": inner_steer(llama, ["layers.0"])}, {"style": 2.0})
    found, expected = score_continuations(llama, PAIRS, mix), list(plainly(llama, PAIRS, mix))
    torch.testing.assert_close([s.log_p for s in found], [log_p for log_p, _ in expected], rtol=1e-4, atol=1e-4)
    assert [s.log_p for s in found] != [s.log_p for s in score_continuations(llama, PAIRS, NOTHING)]


def test_what_greedy_generation_writes_is_greedy(llama):
    context = [5, 6, 7]
    for _ in range(3):
        context.append(int(llama.model(torch.tensor([context])).logits[0, -1].argmax()))
    (score,) = score_continuations(llama, [(context[:3], context[3:])], NOTHING)
    assert score.is_greedy


def test_what_differs_in_the_last_token_alone_is_read_once(llama):
    read = []
    with llama.model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].shape), with_kwargs=True
    ):
        score_continuations(llama, [([5, 6, 7], [token]) for token in range(4, 20)], NOTHING)
    assert read == [(1, 3)]


def test_contexts_lose_their_beginning_where_they_are_too_long(llama):
    long = [1 + i % 50 for i in range(llama.max_length + 10)]
    (whole,) = score_continuations(llama, [(long, [3, 4])], NOTHING)
    (cut,) = score_continuations(llama, [(long[-(llama.max_length - 1) :], [3, 4])], NOTHING)
    assert whole == cut


def test_logits_that_are_not_finite_are_refused(llama):
    with pytest.raises(NotFiniteError, match=r"continuation 1: .* lower the strength"):
        score_continuations(llama, PAIRS, Mix({"style": random_steer(llama)}, {"style": 1e38}))


def test_what_cannot_be_scored_is_refused(llama, make_lm):
    for pair in (([], [1]), ([1], []), ([1], [2] * (llama.max_length + 1))):
        with pytest.raises(DataError, match="continuation 2 has"):
            score_continuations(llama, [([1], [2]), pair], NOTHING)
    with pytest.raises(WrongBaseError):
        score_continuations(llama, PAIRS, Mix({"style": random_steer(make_lm("gpt2"))}, {"style": 1.0}))
    assert score_continuations(llama, [], NOTHING) == []
