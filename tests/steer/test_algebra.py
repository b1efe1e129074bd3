"""Steers made of steers do what their parts do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.model.fisher import FisherFactors
from lmsteer.steer.algebra import decorrelate_strengths, merge, orthogonalize, overlaps
from lmsteer.steer.mix import Mix
from tiny import random_steer


@pytest.fixture(scope="module")
def fisher():
    g = torch.Generator().manual_seed(0)
    h, r = (torch.randn(200, 32, generator=g, dtype=torch.float64) for _ in range(2))
    return FisherFactors(h.T @ h / 200, r.T @ r / 200, h.mean(0))


def with_eos(lm, seed):
    steer = random_steer(lm, seed=seed, name=f"s{seed}")
    g = torch.Generator().manual_seed(seed + 50)
    return replace(
        steer, factors={**steer.factors, "A_eos": torch.randn(32, 1, generator=g), "B_eos": torch.ones(32, 1)}
    )


def test_overlaps_are_inner_products_of_matrices(llama, fisher):
    steers = [random_steer(llama, rank=rank, seed=rank) for rank in (2, 3, 5)]
    found = overlaps(steers, fisher)
    for j, one in enumerate(steers):
        for k, other in enumerate(steers):
            w1, w2 = one.matrix().double(), other.matrix().double()
            expected = (w1.T @ fisher.c @ w2 @ fisher.f).trace()
            assert float(found[j, k]) == pytest.approx(float(expected), rel=1e-5)  # W is made in float32


@settings(max_examples=25, deadline=None)
@given(
    strengths=st.lists(st.floats(-8, 8), min_size=1, max_size=4), form=st.sampled_from(["multiply", "add", "offset"])
)
def test_a_sum_acts_as_its_mix(llama, strengths, form):
    steers = {f"s{k}": random_steer(llama, form, seed=k, name=f"s{k}") for k in range(len(strengths))}
    mix = Mix(steers, {f"s{k}": s for k, s in enumerate(strengths)})
    one = merge(mix, "sum")
    alone = Mix({"sum": one}, {"sum": 1.0})
    h = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))
    z = torch.randn(3, 4, one.vocabulary, generator=torch.Generator().manual_seed(1))
    # float32: strengths are multiplied into A B^T before the product in place of after it
    torch.testing.assert_close(alone.steer_hidden_states(h), mix.steer_hidden_states(h), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.steer_logits(z), mix.steer_logits(z), rtol=1e-4, atol=1e-4)
    assert [part["name"] for part in one.card.fit["of"]] == list(steers)
    assert [part["strength"] for part in one.card.fit["of"]] == pytest.approx(strengths)


def test_a_sum_reads_what_its_parts_read(llama):
    one, two = with_eos(llama, 1), with_eos(llama, 2)
    together = merge(Mix({"one": one, "two": two}, {"one": 2.0, "two": -0.5}), "sum", "both")
    expected = 2 * one.with_eos().matrix() - 0.5 * two.with_eos().matrix()
    torch.testing.assert_close(together.with_eos().matrix(), expected, rtol=1e-4, atol=1e-5)  # float32
    assert together.card.label == "both"
    plain = merge(Mix({"one": one, "plain": random_steer(llama)}, {"one": 1.0, "plain": 1.0}), "sum")
    assert plain.factors["A_eos"].shape == (32, 1)


def test_orthogonalize_leaves_the_others_alone_and_keeps_its_own_effect(llama, fisher):
    steer, one, two = (random_steer(llama, seed=k, name=f"s{k}") for k in range(3))
    steer = merge(Mix({"a": steer, "b": one}, {"a": 1.0, "b": 0.7}), "steer")  # leans on one
    before = overlaps([steer, one, two], fisher)
    after = overlaps([orthogonalize(steer, {"one": one, "two": two}, fisher), steer, one, two], fisher)
    assert abs(float(before[0, 1])) > 0.1 * float(before[0, 0])
    assert float(after[0, 1]) == pytest.approx(float(before[0, 0]), rel=1e-5)  # factors are float32
    for k in (2, 3):
        assert float(after[0, k]) == pytest.approx(0, abs=1e-5 * float(before[0, 0]))


def test_derived_steers_have_no_calibration(llama, fisher):
    card = replace(
        random_steer(llama).card,
        held_out={"slope": 1.0},
        safe_range=(-1.0, 1.0),
        calibration={"max_perplexity_ratio": 1.5},
    )
    steer = replace(random_steer(llama), card=card)
    for made in (
        orthogonalize(steer, {"one": random_steer(llama, seed=5)}, fisher),
        steer.scaled(2.0),
        steer.truncated(1),
    ):
        assert (made.card.held_out, made.card.safe_range, made.card.calibration) == ({}, None, {})


def test_decorrelated_strengths_give_each_its_own_effect(llama, fisher):
    one, two = random_steer(llama, seed=1), random_steer(llama, seed=2)
    two = merge(Mix({"one": one, "two": two}, {"one": -0.6, "two": 1.0}), "two")
    mix = Mix({"one": one, "two": two}, {"one": 3.0, "two": -2.0})
    strengths = decorrelate_strengths(mix, fisher)
    m = overlaps([one, two], fisher)
    effects = m @ torch.tensor(list(strengths.values()), dtype=torch.float64)
    torch.testing.assert_close(effects, m.diagonal() * torch.tensor([3.0, -2.0], dtype=torch.float64))
    lone = Mix({"one": one}, {"one": 3.0})
    assert decorrelate_strengths(lone, fisher) == {"one": pytest.approx(3.0)}


def test_what_makes_no_steer_is_refused(llama, fisher):
    one, shift = random_steer(llama), random_steer(llama, "add")
    with pytest.raises(SteerError, match="of one form"):
        merge(Mix({"one": one, "shift": shift}, {"one": 1.0, "shift": 1.0}), "sum")
    with pytest.raises(SteerError, match="one strength each"):
        merge(Mix({"one": one}, {"one": [1.0, 2.0]}), "sum")
    with pytest.raises(SteerError, match="of one form"):
        merge(Mix({}, {}), "sum")
    with pytest.raises(SteerError, match="only multiply"):
        overlaps([one, shift], fisher)
    with pytest.raises(SteerError, match="does nothing that same do not do"):
        orthogonalize(one, {"same": one.scaled(2.0)}, fisher)
    foreign = replace(one, card=replace(one.card, base_fingerprint="another"))
    with pytest.raises(WrongBaseError, match="several base models"):
        orthogonalize(one, {"foreign": foreign}, fisher)
    with pytest.raises(SteerError, match="no strengths can decorrelate"):
        decorrelate_strengths(Mix({"one": one, "same": one.scaled(-2.0)}, {"one": 1.0, "same": 1.0}), fisher)
    with pytest.raises(SteerError, match="from row to row"):
        decorrelate_strengths(Mix({"one": one}, {"one": [1.0, 2.0]}), fisher)
