"""Generation: rows are their own, whatever the batch; the dial turns; transformers' own paths are steered too."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper, pipeline

from lmsteer.errors import DataError, SteerError
from lmsteer.generation import decoding, sampling
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.decoding import decode
from lmsteer.generation.generate import generate, perplexity
from lmsteer.generation.sampling import RowSampler
from lmsteer.generation.unconditional import sample_unconditional
from lmsteer.model.batching import pad
from lmsteer.steer.mix import Mix
from tiny import FAMILIES, random_steer

PROMPTS = ["The cat", "A much longer prompt, to be padded", "x"]


def written(lm, batch_size: int = 64, **options):
    steers = {"style": random_steer(lm)}
    dial = [{"style": s} for s in (-2.0, 0.0, 2.0)]
    return list(generate(lm, PROMPTS, steers, dial, GenerationConfig(2, 6, batch_size=batch_size, **options)))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_their_batch(make_lm, family):
    lm = make_lm(family)
    assert [c.text for c in written(lm, 1)] == [c.text for c in written(lm, 5)] == [c.text for c in written(lm, 64)]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_leave_the_batch_and_the_others_go_on(make_lm, family, monkeypatch):
    lm = make_lm(family)
    monkeypatch.setattr(decoding, "_STRETCH", 2)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", list(range(2, 260, 7)))
    sizes = []
    monkeypatch.setattr(
        decoding, "decode", lambda lm, start, *rest: sizes.append(len(start["input_ids"])) or decode(lm, start, *rest)
    )
    prompts = ["The cat", "A longer prompt"]
    config = GenerationConfig(5, 12, SamplingConfig(temperature=4.0), score=True)
    dial = [{"style": s} for s in (0.0, 2.0)]
    steers = {"style": random_steer(lm)}
    together = list(generate(lm, prompts, steers, dial, config))
    sizes_together, sizes[:] = list(sizes), []
    alone = list(generate(lm, prompts, steers, dial, replace(config, batch_size=1)))
    assert [(c.text, c.tokens) for c in together] == [(c.text, c.tokens) for c in alone]
    # float32 sums of up to twelve numbers of size five, padded and not.
    assert [c.log_p for c in together] == pytest.approx([c.log_p for c in alone], abs=1e-4, rel=0)
    assert len({c.tokens for c in together}) > 3
    assert sizes_together[-1] < 20 == max(sizes_together) or lm.is_recurrent


def test_the_order_is_prompt_strength_sample(llama):
    rows = written(llama)
    assert [(c.prompt, c.strengths["style"], c.sample) for c in rows] == [
        (p, s, k) for p in PROMPTS for s in (-2.0, 0.0, 2.0) for k in (0, 1)
    ]


def test_seeds_repeat_and_differ(llama):
    assert [c.text for c in written(llama, seed=1)] == [c.text for c in written(llama, seed=1)]
    assert [c.text for c in written(llama, seed=1)] != [c.text for c in written(llama, seed=2)]


def test_strengths_act_and_zero_is_unsteered(llama):
    rows = written(llama)
    plain = [c.text for c in generate(llama, PROMPTS, config=GenerationConfig(2, 6))]
    assert [c.text for c in rows if c.strengths["style"] == 0] == plain
    assert [c.text for c in rows if c.strengths["style"] == 2] != plain


def test_scores_are_the_unsteered_models_log_likelihood(llama):
    for c in written(llama, score=True, sampling=SamplingConfig(top_p=1.0)):
        prompt = llama.encode([c.prompt])[0]
        new = llama.encode([c.text])[0]
        if len(new) != c.tokens or llama.tokenizer.decode(new) != c.text or "\ufffd" in c.text:
            continue  # bytes that are no text, or an end of text, do not come back as the same ids
        ids, mask = pad([prompt + new], 0, llama.device)
        h = llama.hidden_states(ids, mask)[0, len(prompt) - 1 : -1]
        expected = llama.head.log_likelihood(h, torch.tensor(new)).sum()
        assert c.log_p == pytest.approx(float(expected), rel=1e-4, abs=1e-4)  # float32, through a cache


def test_greedy_generation_is_transformers_own(llama):
    greedy = GenerationConfig(max_new_tokens=5, sampling=SamplingConfig(temperature=0))
    ours = [c.text for c in generate(llama, ["The cat"], config=greedy)]
    ids = torch.tensor(llama.encode(["The cat"]))
    theirs = llama.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
    assert ours == llama.tokenizer.batch_decode(theirs[:, ids.shape[1] :], skip_special_tokens=True)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=6), st.floats(0.05, 1), st.floats(0, 0.999))
def test_the_sampler_draws_from_the_nucleus_alone(logits, top_p, u):
    scores = torch.tensor([logits])
    p = scores.softmax(-1)[0]
    sampler = RowSampler(torch.tensor([[u]]), SamplingConfig(top_p), [])
    only = sampler(torch.zeros(1, 0), scores)
    drawn = int(sampler.drawn)
    assert only.isfinite().sum() == 1
    above = float(p[p > p[drawn]].sum())
    assert above < top_p + 1e-6  # rounding of float32 sums


@settings(deadline=None)
@given(st.permutations([-2.0, -1.1, 0.0, 0.4, 1.3, 2.5]), st.floats(0.05, 1), st.integers(1, 8))
def test_top_k_then_top_p_is_what_transformers_draws_from(logits, top_p, top_k):
    scores = torch.tensor([logits])
    warped = TopKLogitsWarper(top_k)(None, scores.clone()) if top_k < len(logits) else scores
    p = TopPLogitsWarper(top_p)(None, warped).softmax(-1)[0]
    u = (torch.arange(2000) + 0.5)[:, None] / 2000
    sampler = RowSampler(u, SamplingConfig(top_p, top_k), [])
    sampler(torch.zeros(2000, 0), scores.repeat(2000, 1))
    shares = torch.bincount(sampler.drawn, minlength=len(logits)) / 2000
    # A step of u is 1/2000.
    torch.testing.assert_close(shares, p, atol=2e-3, rtol=0)


def test_the_sampler_follows_the_probabilities():
    u = (torch.arange(1000) + 0.5)[:, None] / 1000
    scores = torch.tensor([0.5, 0.3, 0.2]).log().repeat(1000, 1)
    sampler = RowSampler(u, SamplingConfig(1.0), [])
    sampler(torch.zeros(1000, 0), scores)
    assert torch.bincount(sampler.drawn).tolist() == pytest.approx([500, 300, 200], abs=1)


def test_narrow_and_wide_nuclei_are_drawn_from_as_whole_rows_are(monkeypatch):
    random = torch.Generator().manual_seed(0)
    # From a few likely words in 3,000 to all of them alike.
    scores = torch.randn(60, 3000, generator=random) * torch.linspace(0, 8, 60)[:, None]
    drawn = []
    for widths in (sampling._NUCLEUS, ()):
        monkeypatch.setattr(sampling, "_NUCLEUS", widths)
        sampler = RowSampler(torch.rand(60, 1, generator=torch.Generator().manual_seed(1)), SamplingConfig(0.9), [])
        sampler(torch.zeros(60, 0), scores.clone())
        drawn.append(sampler.drawn)
    held = scores.softmax(-1).topk(64).values.sum(-1)
    assert held.min() < 0.9 < held.max()
    assert torch.equal(*drawn)


def test_steers_act_under_pipeline_beams_and_sampling(llama):
    prompt = llama.tokenizer("The cat", return_tensors="pt")
    arguments = {"max_new_tokens": 6, "pad_token_id": 0}
    settings_ = [{"do_sample": False}, {"num_beams": 3, "do_sample": False}, {"do_sample": True}]
    mix = Mix({"s": random_steer(llama)}, {"s": 4.0})

    def run(**options):
        torch.manual_seed(0)
        return llama.model.generate(**prompt, **arguments, **options).tolist()

    before = [run(**options) for options in settings_]
    with llama.steered(mix) as handle:
        during = [run(**options) for options in settings_]
        piped = pipeline("text-generation", model=llama.model, tokenizer=llama.tokenizer)
        steered = piped("The cat", do_sample=False, max_new_tokens=6)[0]["generated_text"]
        assert handle.calls > 0
    assert [run(**options) for options in settings_] == before
    assert all(a != b for a, b in zip(before, during, strict=True))
    assert steered == llama.tokenizer.decode(during[0][0], skip_special_tokens=True)


def test_a_models_own_generation_settings_are_set_aside(llama, monkeypatch):
    before = [c.text for c in written(llama)]
    for name, value in (("repetition_penalty", 5.0), ("no_repeat_ngram_size", 1), ("num_beams", 2)):
        monkeypatch.setattr(llama.model.generation_config, name, value)
    assert [c.text for c in written(llama)] == before


def test_own_text_is_the_models_and_the_seeds_alone(llama):
    h, y = sample_unconditional(llama, 5, 7, 0)
    again = sample_unconditional(llama, 5, 7, 0)
    assert h.shape == (len(y), 32)
    assert len(y) <= 35
    assert torch.equal(h, again[0])
    assert torch.equal(y, again[1])


def test_bad_prompts_and_strengths_are_refused(llama):
    for prompts, message in (([], "no prompts"), ([""], "is empty"), (["x" * 3000], "longer than")):
        with pytest.raises(DataError, match=message):
            list(generate(llama, prompts))
    with pytest.raises(SteerError, match="finite"):
        list(generate(llama, ["x"], {"style": random_steer(llama)}, [{"style": math.inf}]))


def test_perplexity_of_nothing_is_nan():
    assert math.isnan(perplexity([]))
