"""Steers within steers add up, and leave the model as it was."""

from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from lmsteer.errors import SteerError
from lmsteer.steer.hook import SteerHandle, unsteered
from lmsteer.steer.mix import Mix
from tiny import random_steer, tiny_lm

IDS = torch.arange(8).reshape(2, 4)
forms = st.sampled_from(["multiply", "add", "offset"])
# One strength, or one for each of the two rows.
strengths = st.floats(-4, 4, width=32) | st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=2)


@torch.inference_mode()
def logits(lm):
    return lm.model(input_ids=IDS).logits


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(forms, st.integers(0, 2), strengths), min_size=1, max_size=4), st.randoms())
def test_steers_within_steers_are_their_sum_in_any_order(llama, parts, random):
    steers = [(f"s{k}", random_steer(llama, form, seed=seed), s) for k, (form, seed, s) in enumerate(parts)]
    together = Mix({name: steer for name, steer, _ in steers}, {name: s for name, _, s in steers})
    with llama.steered(together):
        expected = logits(llama)
    random.shuffle(steers)
    with ExitStack() as stack:
        for _, steer, s in steers:  # all under one name: the same steer twice adds twice
            stack.enter_context(llama.steered(Mix({"same": steer}, {"same": s})))
        found = logits(llama)
    # float32: the sum is taken in another order, over terms of up to some hundreds.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_leaving_the_inner_block_restores_the_outer_one_and_then_the_model(llama):
    outer, inner = (Mix({"s": random_steer(llama, seed=k)}, {"s": 2.0}) for k in (1, 2))
    plain = logits(llama)
    hooks = len(llama.head.module._forward_pre_hooks)
    with llama.steered(outer) as handle:
        once = logits(llama)
        with llama.steered(inner):
            twice = logits(llama)
        assert torch.equal(logits(llama), once)
        assert handle.calls == 3
        handle.mix = inner
        assert not torch.equal(logits(llama), once)
    assert not torch.equal(once, twice)
    assert torch.equal(logits(llama), plain)
    assert len(llama.head.module._forward_pre_hooks) == hooks


def test_the_outer_block_may_be_left_first(llama):
    outer, inner = (Mix({"s": random_steer(llama, seed=k)}, {"s": 2.0}) for k in (1, 2))
    with llama.steered(inner):
        expected = logits(llama)
    first, second = llama.steered(outer), llama.steered(inner)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(logits(llama), expected)
    second.__exit__(None, None, None)


def test_steers_are_set_aside_and_put_back(llama):
    plain = logits(llama)
    with llama.steered(Mix({"s": random_steer(llama)}, {"s": 2.0})):
        steered = logits(llama)
        with unsteered(llama.model):
            assert torch.equal(logits(llama), plain)
            with llama.steered(Mix({"s": random_steer(llama, seed=7)}, {"s": 1.0})):
                assert not torch.equal(logits(llama), plain)
        assert torch.equal(logits(llama), steered)


def test_a_model_without_a_head_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.model, "get_output_embeddings", lambda: None)
    with pytest.raises(SteerError, match="no output embedding"):
        SteerHandle(llama.model, Mix({}, {}))


def test_a_steered_model_is_not_kept_alive():
    lm = tiny_lm("llama")
    with lm.steered(Mix({"s": random_steer(lm)}, {"s": 2.0})):
        logits(lm)
    model = weakref.ref(lm.model)
    del lm
    gc.collect()
    assert model() is None


@pytest.mark.slow
def test_continuous_batching_of_transformers_is_steered(llama):
    mix, prompts = Mix({"s": random_steer(llama)}, {"s": 8.0}), [[5, 6, 7, 8], [9, 10, 11]]
    config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0, num_blocks=64, max_batch_tokens=64)
    with llama.steered(mix):
        found = llama.model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
        expected = [
            llama.model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
            for prompt in prompts
        ]
    unsteered_ones = llama.model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    assert [output.generated_tokens for output in found.values()] == expected
    assert [output.generated_tokens for output in unsteered_ones.values()] != expected
