"""Mixes: the algebra of steers, as properties."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from tiny import matrix_of, random_steer

strengths = st.floats(-8, 8, width=32)
D, V = 8, 11
CARD = Card(name="style", base="base", base_fingerprint="f", tokenizer_fingerprint="t")


def steer(form: str, seed: int = 0) -> Steer:
    g = torch.Generator().manual_seed(seed)
    factors = {
        "multiply": {"A": torch.randn(D, 2, generator=g), "B": torch.randn(D, 2, generator=g)},
        "add": {"a": torch.randn(D, generator=g)},
        "offset": {"o": torch.randn(V, generator=g)},
    }[form]
    return Steer(form, factors, D, V, CARD)


@settings(deadline=None)
@given(strengths, strengths, strengths)
def test_a_mix_of_all_forms_is_what_the_formulas_say(s, t, u):
    torch.manual_seed(0)
    h, e = torch.randn(2, 3, D), torch.randn(V, D)
    m, a, o = steer("multiply"), steer("add"), steer("offset")
    mix = Mix({"m": m, "a": a, "o": o}, {"m": s, "a": t, "o": u})
    z = mix.steer_logits(mix.steer_hidden_states(h) @ e.T)
    w = m.factors["A"] @ m.factors["B"].T
    expected = (h @ (torch.eye(D) + s * w) + t * a.factors["a"]) @ e.T + u * o.factors["o"]
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-3)  # float32 sums of terms up to 10³


@pytest.mark.parametrize("forms", [(), ("multiply",), ("add",), ("offset",), ("multiply", "add", "offset")])
@pytest.mark.parametrize("values", [(1.5, -2.0, 0.0), (2.5,)], ids=["row by row", "one for all"])
def test_the_shift_of_logits_is_what_steered_hidden_states_make(forms, values):
    torch.manual_seed(0)
    h, e = torch.randn(3, D), torch.randn(V, D)
    mix = Mix({form: steer(form) for form in forms}, dict.fromkeys(forms, torch.tensor(values)))
    expected = mix.steer_logits(mix.steer_hidden_states(h) @ e.T) - h @ e.T
    for _ in range(2):  # the products with the embeddings are made once
        torch.testing.assert_close(mix.logit_shift(h, e), expected, rtol=1e-4, atol=1e-4)
    assert len(mix._products) == bool({"multiply", "add"} & {*forms})


@settings(deadline=None)
@given(st.lists(strengths, min_size=1, max_size=4))
def test_steers_stacked_are_their_sum(values):
    torch.manual_seed(0)
    h = torch.randn(2, 3, D)
    steers = {f"s{k}": steer("multiply", k) for k in range(len(values))}
    mix = Mix(steers, dict(zip(steers, values, strict=True)))
    torch.testing.assert_close(mix.steer_hidden_states(h), h + h @ matrix_of(mix), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_strength_zero_changes_no_bit_in_any_row(form, dtype):
    x = torch.randn(3, 2, V if form == "offset" else D).to(dtype)
    mix = Mix({"s": steer(form)}, {"s": [0.0, 5.0, 0.0]})
    y = mix.steer_logits(x) if form == "offset" else mix.steer_hidden_states(x)
    assert torch.equal(y[0::2], x[0::2])
    assert not torch.equal(y[1], x[1])


def test_strengths_spread_over_beams_and_samples():
    h = torch.randn(4, 1, D)
    per_prompt = Mix({"s": steer("multiply")}, {"s": [1.0, -2.0]})
    per_row = Mix({"s": steer("multiply")}, {"s": [1.0, 1.0, -2.0, -2.0]})
    assert torch.equal(per_prompt.steer_hidden_states(h), per_row.steer_hidden_states(h))
    with pytest.raises(SteerError, match="given for 2 rows, but the batch has 3"):
        per_prompt.steer_hidden_states(h[:3])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [1.0, float("-inf")], []])
def test_strengths_that_are_no_numbers_are_refused(bad):
    with pytest.raises(SteerError, match="must be a finite number"):
        Mix({"s": steer("add")}, {"s": bad})


def test_mixes_that_make_no_sense_are_refused(make_lm):
    with pytest.raises(SteerError, match="unmatched: t"):
        Mix({"s": steer("add")}, {"s": 1.0, "t": 1.0})
    with pytest.raises(SteerError, match="rows"):
        Mix({"s": steer("add"), "t": steer("add")}, {"s": [1.0, 2.0], "t": [1.0, 2.0, 3.0]})
    one, other = random_steer(make_lm("llama")), random_steer(make_lm("mistral"), seed=1)
    other = Steer(
        "add",
        {"a": torch.zeros(32)},
        32,
        one.vocabulary,
        Card(name="o", base="b", base_fingerprint="another", tokenizer_fingerprint="t"),
    )
    with pytest.raises(SteerError, match="different base models"):
        Mix({"a": one, "b": other}, {"a": 1.0, "b": 1.0})


def test_steers_that_are_none_are_refused(llama):
    with pytest.raises(SteerError, match="unknown form"):
        Steer("divide", {}, D, V, CARD)
    with pytest.raises(SteerError, match="has factors"):
        Steer("add", {"b": torch.zeros(D)}, D, V, CARD)
    with pytest.raises(SteerError, match="first dimension must be 8"):
        Steer("add", {"a": torch.zeros(D + 1)}, D, V, CARD)
    with pytest.raises(SteerError, match="not finite"):
        Steer("add", {"a": torch.full((D,), torch.nan)}, D, V, CARD)


def test_a_mix_that_was_first_used_without_gradients_can_be_differentiated_later():
    mix = Mix(
        {form: steer(form) for form in ("multiply", "add", "offset")}, dict.fromkeys(("multiply", "add", "offset"), 1.0)
    )
    h, z = torch.randn(2, 3, D, requires_grad=True), torch.randn(2, 3, V, requires_grad=True)
    with torch.inference_mode():
        mix = Mix(mix.steers, {name: torch.tensor([1.0, 2.0]) for name in mix.steers}).for_rows(torch.arange(2))
        mix.steer_hidden_states(torch.randn(2, 3, D))
        mix.steer_logits(torch.randn(2, 3, V))
    (mix.steer_hidden_states(h).square().sum() + mix.steer_logits(z).square().sum()).backward()
    assert h.grad is not None
    assert z.grad is not None


def test_a_mix_that_is_dropped_is_freed_at_once():
    mix = Mix({"s": steer("multiply")}, {"s": 1.0})
    mix.steer_hidden_states(torch.randn(1, D))
    rows = mix.for_rows(torch.arange(1))
    factors = weakref.ref(mix._factors(torch.device("cpu")).a)
    gc.disable()
    try:
        del mix, rows
        assert factors() is None
    finally:
        gc.enable()
