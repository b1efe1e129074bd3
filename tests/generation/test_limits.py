"""The limits of a token against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lmsteer.errors import DataError
from lmsteer.generation.config import Limits
from lmsteer.generation.limits import RowLimits, limited
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


def limits(*rows):
    return RowLimits.of(rows, torch.device("cpu"))


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
    logits, shares = limited(z0, z1, limits(*[Limits(kl=budget)] * 3), recent, post)
    found, best = divergences(z0, z1, post, shares), largest(z0, z1, post, budget)
    assert (found <= budget + ROUNDING).all()
    above = divergences(z0, z1, post, (shares + STEP).clamp(max=1))
    assert ((above > budget - ROUNDING) | (shares == 1)).all()
    # A divergence that differs from the budget by rounding alone may go either way.
    torch.testing.assert_close(shares.double(), best, atol=STEP, rtol=0)
    assert torch.equal(logits, post(z0 + z1 * shares[:, None]))


@few
@given(st.integers(0, 999), spreads, budgets)
def test_budget_holds_where_logits_are_capped(seed, spread, budget):
    z0, z1, recent = step(seed, spread)
    _, shares = limited(z0, z1, limits(*[Limits(kl=budget)] * 3), recent, POSTS["capped"])
    assert (divergences(z0, z1, POSTS["capped"], shares) <= budget + ROUNDING).all()
    above = divergences(z0, z1, POSTS["capped"], (shares + STEP).clamp(max=1))
    assert ((above > budget - ROUNDING) | (shares == 1)).all()


@pytest.mark.parametrize("name", sorted(POSTS))
def test_whole_strength_within_the_budget_is_kept(name):
    z0, z1, recent = step(0, 0.3)
    enough = float(divergences(z0, z1, POSTS[name], torch.ones(3)).max()) + 2 * ROUNDING
    logits, shares = limited(z0, z1, limits(*[Limits(kl=enough)] * 3), recent, POSTS[name])
    assert shares.tolist() == [1, 1, 1]
    assert torch.equal(logits, POSTS[name](z0 + z1))


@few
@given(st.integers(0, 999), st.sampled_from([0.0, 1e-4, 0.05, 0.5, 0.999]), posts)
def test_plausible_tokens_are_those_of_the_definition(seed, share, name):
    z0, z1, recent = step(seed)
    logits, _ = limited(z0, z1, limits(*[Limits(plausible=share)] * 3), recent, POSTS[name])
    p0 = torch.softmax(POSTS[name](z0.double()), -1)
    is_plausible = p0 >= share * p0.amax(-1, keepdim=True)
    steered = POSTS[name](z0 + z1)
    assert torch.equal(logits, steered.where(is_plausible, -torch.inf))
    assert logits.gather(1, z0.argmax(-1, keepdim=True)).isfinite().all()


@few
@given(st.integers(0, 999), st.integers(0, 9), posts)
def test_fresh_leaves_the_last_tokens_as_they_are(seed, window, name):
    z0, z1, recent = step(seed)
    logits, _ = limited(z0, z1, limits(*[Limits(fresh=window)] * 3), recent, POSTS[name])
    plain, steered = POSTS[name](z0), POSTS[name](z0 + z1)
    for row, tokens in enumerate(recent.tolist()):
        held = {token for token in tokens[max(0, 6 - window) :] if token >= 0}
        expected = [float((plain if v in held else steered)[row, v]) for v in range(V)]
        assert logits[row].tolist() == expected


def test_limits_act_one_after_the_other():
    """The divergence is that of the shift without recent tokens, and plausible tokens are the unsteered model's."""
    z0, z1, recent = step(1)
    post = POSTS["scaled"]
    logits, shares = limited(z0, z1, limits(*[Limits(0.05, 4, 0.1)] * 3), recent, post)
    alone, _ = limited(torch.zeros_like(z0), z1, limits(*[Limits(fresh=4)] * 3), recent, PLAIN)
    torch.testing.assert_close(shares.double(), largest(z0, alone, post, 0.1), atol=STEP, rtol=0)
    expected, _ = limited(z0, alone * shares[:, None], limits(*[Limits(plausible=0.05)] * 3), recent, post)
    assert torch.equal(logits, expected)
    assert (shares < 1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(POSTS))
def test_rows_do_not_depend_on_each_other(name, dtype):
    """Neutral rows among limited ones are the plain sum; each row is what it is alone."""
    rows = [Limits(), Limits(0.2), Limits(fresh=3), Limits(kl=0.05), Limits(0.01, 6, 0.3), Limits()]
    z0, z1, recent = step(2, rows=len(rows))
    z0, z1 = z0.to(dtype), z1.to(dtype)
    logits, shares = limited(z0, z1, limits(*rows), recent, POSTS[name])
    steered = POSTS[name](z0 + z1)
    assert torch.equal(logits[[0, 5]], steered[[0, 5]])
    assert shares[[0, 5]].tolist() == [1, 1]
    for k, row in enumerate(rows):
        one = slice(k, k + 1)
        alone, share = limited(z0[one], z1[one], limits(row), recent[one], POSTS[name])
        assert torch.equal(alone, logits[one])
        assert torch.equal(share, shares[one])
        assert row == Limits() or not torch.equal(alone, steered[one])


def test_tokens_that_the_model_rules_out_and_wrong_logits_stay_as_they_are():
    z0, z1, recent = step(3)
    whole = limits(*[Limits(0.01, 6, 0.1)] * 3)
    _, without = limited(z0[:, 1:], z1[:, 1:], limits(*[Limits(kl=0.1)] * 3), recent, PLAIN)
    z0[:, 0] = -torch.inf
    logits, shares = limited(z0, z1, limits(*[Limits(kl=0.1)] * 3), recent, PLAIN)
    assert logits[:, 0].tolist() == [-math.inf] * 3
    assert torch.equal(shares, without)
    z0[1, 3] = torch.nan
    logits, _ = limited(z0, z1, whole, recent, PLAIN)
    assert logits.amax(-1).isfinite().tolist() == [True, False, True]


class Looks(TorchDispatchMode):
    """Operations that wait for a value of a tensor, or whose result has a size that depends on one."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten._to_copy, aten.masked_select):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(POSTS))
def test_no_value_is_looked_at(name):
    z0, z1, recent = step(4)
    table = limits(Limits(), Limits(0.1, 4, 0.2), Limits(kl=0.1))
    with Looks() as looks:
        limited(z0, z1, table, recent, POSTS[name])
    # A conversion between types on one device is no look.
    assert set(looks.found) <= {"aten._to_copy.default"}


def test_no_rows_and_no_limits_cost_nothing():
    z0, z1, recent = step(5, rows=0)
    assert limits().kinds == limits(Limits()).kinds == frozenset()
    logits, shares = limited(z0, z1, limits(), recent, PLAIN)
    assert (logits.shape, shares.shape) == ((0, V), (0,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"plausible": 1.0}, "plausible must be at least 0 and below 1; it is 1.0"),
        ({"plausible": -0.1}, "plausible must be"),
        ({"plausible": math.nan}, "plausible must be"),
        ({"fresh": -1}, "fresh must be 0 or more; it is -1"),
        ({"kl": 0.0}, "kl must be above 0; it is 0.0"),
        ({"kl": math.nan}, "kl must be above 0"),
    ],
)
def test_limits_out_of_range_are_refused(wrong, message):
    with pytest.raises(DataError, match=message):
        Limits(**wrong)
