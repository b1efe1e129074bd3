"""The limits of a token against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.generation.config import Limits
from lmsteer.generation.limits import RowLimits, _all_at_once, _one_by_one, limited
from lmsteer.model.head import Head

PLAIN = Head(torch.nn.Linear(1, 1)).post
POSTS = {
    "plain": PLAIN,
    "scaled": Head(torch.nn.Linear(1, 1), 0.25).post,
    "capped": Head(torch.nn.Linear(1, 1), 2.0, 5.0).post,
}
# Between two values of λ that are tried.
STEP = 1 / 128
# Of a divergence in float32, in nats.
ROUNDING = 1e-4
V = 50
few = settings(max_examples=25, deadline=None, derandomize=True)
posts = st.sampled_from(sorted(POSTS))
spreads = st.sampled_from([0.3, 3.0, 12.0])
budgets = st.sampled_from([0.01, 0.2, 1.0, 3.0])


def step(seed, spread=3.0, rows=3, width=6):
    """Logits, shifts and recent tokens of some rows; earlier columns of some are padding."""
    g = torch.Generator().manual_seed(seed)
    z0, z1 = torch.randn(rows, V, generator=g) * 4, torch.randn(rows, V, generator=g) * spread
    recent = torch.randint(V, (rows, width), generator=g)
    lengths = torch.randint(width + 1, (rows, 1), generator=g)
    return z0, z1, recent.where(torch.arange(width, 0, -1) <= lengths, -1)


def within(z0, z1, recent, post, *rows):
    """The logits and λ of rows with these limits, whose recent tokens are these."""
    written = [[token for token in tokens if token >= 0] for tokens in recent.tolist()]
    found = limited(z0, z1, RowLimits.of(rows, written, 9, torch.device("cpu")), post)
    return found.logits, found.share


def divergences(z0, z1, post, shares):
    """KL(p_λ || p₀) (B,) in float64, for λ (B,)."""
    log_p = torch.log_softmax(post(z0.double() + shares.double()[:, None] * z1.double()), -1)
    return (log_p.exp() * (log_p - torch.log_softmax(post(z0.double()), -1))).sum(-1)


def largest(z0, z1, post, budget):
    """The λ up to which no multiple of the step exceeds the budget, by trying all."""
    tried = torch.stack([divergences(z0, z1, post, torch.full((len(z0),), k * STEP)) for k in range(129)])
    return (tried <= budget).double().cumprod(0).sum(0).sub(1) * STEP


@few
@given(st.integers(0, 999), spreads, budgets, st.sampled_from(["plain", "scaled"]))
def test_strengths_are_the_largest_within_the_budget(seed, spread, budget, name):
    z0, z1, recent = step(seed, spread)
    post = POSTS[name]
    logits, shares = within(z0, z1, recent, post, *[Limits(kl=budget)] * 3)
    found, best = divergences(z0, z1, post, shares), largest(z0, z1, post, budget)
    assert (found <= budget + ROUNDING).all()
    above = divergences(z0, z1, post, (shares + STEP).clamp(max=1))
    assert ((above > budget - ROUNDING) | (shares == 1)).all()
    # A divergence that differs from the budget by rounding alone may go either way.
    torch.testing.assert_close(shares.double(), best, atol=STEP, rtol=0)
    assert torch.equal(logits, post(z0 + z1 * shares[:, None]))


@few
@given(st.integers(0, 999), spreads, posts)
def test_rows_one_by_one_and_all_at_once_have_the_same_strengths(seed, spread, name):
    z0, z1, _ = step(seed, spread, rows=4)
    z0[0, :9] = -torch.inf
    budget = torch.tensor([0.01, 0.2, 3.0, torch.inf])
    found = [search(z0, z1, budget, POSTS[name]) for search in (_one_by_one, _all_at_once)]
    assert torch.equal(*found)
    assert found[0][-1] == 1


@few
@given(st.integers(0, 999), spreads, budgets)
def test_budget_holds_where_logits_are_capped(seed, spread, budget):
    z0, z1, recent = step(seed, spread)
    _, shares = within(z0, z1, recent, POSTS["capped"], *[Limits(kl=budget)] * 3)
    assert (divergences(z0, z1, POSTS["capped"], shares) <= budget + ROUNDING).all()
    above = divergences(z0, z1, POSTS["capped"], (shares + STEP).clamp(max=1))
    assert ((above > budget - ROUNDING) | (shares == 1)).all()


@pytest.mark.parametrize("name", sorted(POSTS))
def test_whole_strength_within_the_budget_is_kept(name):
    z0, z1, recent = step(0, 0.3)
    enough = float(divergences(z0, z1, POSTS[name], torch.ones(3)).max()) + 2 * ROUNDING
    logits, shares = within(z0, z1, recent, POSTS[name], *[Limits(kl=enough)] * 3)
    assert shares.tolist() == [1, 1, 1]
    assert torch.equal(logits, POSTS[name](z0 + z1))


@few
@given(st.integers(0, 999), st.sampled_from([0.0, 1e-4, 0.05, 0.5, 0.999]), posts)
def test_plausible_tokens_are_those_of_the_definition(seed, share, name):
    z0, z1, recent = step(seed)
    logits, _ = within(z0, z1, recent, POSTS[name], *[Limits(plausible=share)] * 3)
    p0 = torch.softmax(POSTS[name](z0.double()), -1)
    is_plausible = p0 >= share * p0.amax(-1, keepdim=True)
    steered = POSTS[name](z0 + z1)
    assert torch.equal(logits, steered.where(is_plausible, -torch.inf))
    assert logits.gather(1, z0.argmax(-1, keepdim=True)).isfinite().all()


@few
@given(st.integers(0, 999), st.integers(0, 9), posts)
def test_fresh_leaves_the_last_tokens_as_they_are(seed, window, name):
    z0, z1, recent = step(seed)
    logits, _ = within(z0, z1, recent, POSTS[name], *[Limits(fresh=window)] * 3)
    plain, steered = POSTS[name](z0), POSTS[name](z0 + z1)
    for row, tokens in enumerate(recent.tolist()):
        held = {token for token in tokens[max(0, 6 - window) :] if token >= 0}
        expected = [float((plain if v in held else steered)[row, v]) for v in range(V)]
        assert logits[row].tolist() == expected


def test_limits_act_one_after_the_other():
    """The divergence is that of the shift without recent tokens, and plausible tokens are the unsteered model's."""
    z0, z1, recent = step(1)
    post = POSTS["scaled"]
    logits, shares = within(z0, z1, recent, post, *[Limits(0.05, 4, 0.1)] * 3)
    alone, _ = within(torch.zeros_like(z0), z1, recent, PLAIN, *[Limits(fresh=4)] * 3)
    torch.testing.assert_close(shares.double(), largest(z0, alone, post, 0.1), atol=STEP, rtol=0)
    expected, _ = within(z0, alone * shares[:, None], recent, post, *[Limits(plausible=0.05)] * 3)
    assert torch.equal(logits, expected)
    assert (shares < 1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(POSTS))
def test_rows_do_not_depend_on_each_other(name, dtype):
    """Neutral rows among limited ones are the plain sum; each row is what it is alone."""
    rows = [Limits(), Limits(0.2), Limits(fresh=3), Limits(kl=0.05), Limits(0.01, 6, 0.3), Limits()]
    z0, z1, recent = step(2, rows=len(rows))
    z0, z1 = z0.to(dtype), z1.to(dtype)
    logits, shares = within(z0, z1, recent, POSTS[name], *rows)
    steered = POSTS[name](z0 + z1)
    assert torch.equal(logits[[0, 5]], steered[[0, 5]])
    assert shares[[0, 5]].tolist() == [1, 1]
    for k, row in enumerate(rows):
        one = slice(k, k + 1)
        alone, share = within(z0[one], z1[one], recent[one], POSTS[name], row)
        assert torch.equal(alone, logits[one])
        assert torch.equal(share, shares[one])
        assert row == Limits() or not torch.equal(alone, steered[one])


def test_tokens_that_the_model_rules_out_and_wrong_logits_stay_as_they_are():
    z0, z1, recent = step(3)
    _, without = within(z0[:, 1:], z1[:, 1:], recent, PLAIN, *[Limits(kl=0.1)] * 3)
    z0[:, 0] = -torch.inf
    logits, shares = within(z0, z1, recent, PLAIN, *[Limits(kl=0.1)] * 3)
    assert logits[:, 0].tolist() == [-math.inf] * 3
    assert torch.equal(shares, without)
    z0[1, 3] = torch.nan
    logits, _ = within(z0, z1, recent, PLAIN, *[Limits(0.01, 6, 0.1)] * 3)
    assert logits.amax(-1).isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("name", sorted(POSTS))
def test_no_value_is_looked_at(name):
    """On the meta device there is nothing to look at."""
    z0, z1, _ = step(4)
    rows = [Limits(), Limits(0.1, 4, 0.2), Limits(kl=0.1)]
    table = RowLimits.of(rows, [[], [1, 2, 3], []], 9, torch.device("meta"))
    found = limited(z0.to("meta"), z1.to("meta"), table, POSTS[name])
    assert (found.logits.shape, found.share.shape) == (z0.shape, (3,))


def test_recent_tokens_move_on_with_the_text():
    cpu = torch.device("cpu")
    table = RowLimits.of([Limits(fresh=3), Limits(), Limits(fresh=2)], [[5], [6, 7], [1, 2, 3, 4]], 9, cpu)
    assert table.recent.tolist() == [[-1, -1, 5], [-1, 6, 7], [2, 3, 4]]
    assert table.after(torch.tensor([8, 9, 5])).recent.tolist() == [[-1, 5, 8], [6, 7, 9], [3, 4, 5]]
    plain = RowLimits.of([Limits(0.1)], [[1, 2]], 9, cpu)
    assert plain.after(torch.tensor([8])).recent.shape == (1, 0)
    # No wider than the continuation can be long.
    assert RowLimits.of([Limits(fresh=1 << 31)], [[1, 2]], 5, cpu).recent.tolist() == [[-1, -1, -1, 1, 2]]


def test_limits_that_are_off_are_of_no_kind():
    cpu = torch.device("cpu")
    assert RowLimits.of([], [], 0, cpu).kinds == RowLimits.of([Limits()], [[1]], 9, cpu).kinds == frozenset()
    assert RowLimits.of([Limits(0.1), Limits(kl=2.0)], [[], []], 9, cpu).kinds == {"plausible", "kl"}
    z0, z1, recent = step(5, rows=0)
    logits, shares = within(z0, z1, recent, PLAIN)
    assert (logits.shape, shares.shape) == ((0, V), (0,))
