"""Decoding: prompts are read once, rows that end leave the batch, and a row's noise is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.generation import decoding
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.decoding import PromptPrefill, Row, decode, prefill_shared
from lmsteer.generation.generate import generate
from tiny import FAMILIES, random_steer


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_leave_the_batch_and_the_others_continue(make_lm, family, monkeypatch):
    lm = make_lm(family)
    monkeypatch.setattr(decoding, "_STRETCH", 2)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", list(range(2, 260, 7)))
    sizes = []
    monkeypatch.setattr(
        decoding,
        "decode",
        lambda lm, inputs, *rest: sizes.append(len(inputs["input_ids"])) or decode(lm, inputs, *rest),
    )
    prompts = ["The cat", "A longer prompt"]
    config = GenerationConfig(5, 12, SamplingConfig(temperature=4.0), score=True)
    strengths = [{"style": s} for s in (0.0, 2.0)]
    steers = {"style": random_steer(lm)}
    together = list(generate(lm, prompts, steers, strengths, config))
    sizes_together = list(sizes)
    alone = list(generate(lm, prompts, steers, strengths, replace(config, batch_size=1)))
    assert [(c.text, c.tokens) for c in together] == [(c.text, c.tokens) for c in alone]
    # float32 sums of up to twelve numbers of size five, padded and not.
    assert [c.log_p for c in together] == pytest.approx([c.log_p for c in alone], abs=1e-4, rel=0)
    assert len({c.tokens for c in together}) > 3
    assert sizes_together[-1] < 20 == max(sizes_together) or lm.is_recurrent


def test_a_prompt_of_several_rows_runs_once(llama):
    widths = []
    prefill = PromptPrefill(llama, llama.encode(["abcdef", "xy"]))

    def watch(module, args, output):
        widths.append(tuple(args[0].shape[:2]))

    with llama.model.get_input_embeddings().register_forward_hook(watch), torch.inference_mode():
        shared = prefill_shared(llama, [0, 0, 1, 0], prefill)
        plain = prefill_shared(llama, [0, 1], prefill)
    assert widths == [(2, 5)]
    assert shared["input_ids"].shape == (4, 6)
    assert shared[decoding.CACHE].get_seq_length() == 5
    assert set(plain) == {"input_ids", "attention_mask"}


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**64), 2**64), st.integers(0, 5), st.integers(0, 5))
def test_noise_depends_on_seed_prompt_and_sample_and_on_nothing_else(seed, prompt, sample):
    noise = Row(prompt, (1.0,), sample).noise(seed, 4)
    assert torch.equal(noise, Row(0, (-2.0, 3.0), sample).noise(seed, 4, first_prompt=prompt))
    for other in (
        Row(prompt, (1.0,), sample).noise(seed + 1, 4),
        Row(prompt, (1.0,), sample).noise(seed + 2**61 - 1, 4),
        Row(prompt + 1, (1.0,), sample).noise(seed, 4),
        Row(prompt, (1.0,), sample + 1).noise(seed, 4),
    ):
        assert not torch.equal(noise, other)


def test_seeds_minus_one_and_minus_two_are_two_streams():
    noise = [Row(0, (), 0).noise(seed, 4) for seed in (-1, -2, -1)]
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


def test_the_stream_of_seed_zero_is_known():
    # Results that were published, and files that are resumed, hang on these numbers.
    expected = [0.8332929, 0.50544041, 0.89987236]
    torch.testing.assert_close(Row(0, (), 0).noise(0, 3), torch.tensor(expected), rtol=0, atol=1e-7)
