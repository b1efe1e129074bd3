"""Gists as files: what is written is read, and what is damaged or of another model is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist.compress import compress
from lmsteer.gist.config import GistCondition
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.gist import Gist
from tiny import FAMILIES, random_steer, tiny_lm

GREEDY = GenerationConfig(max_new_tokens=5, sampling=SamplingConfig(temperature=0))


@pytest.fixture
def adapter(llama, adapter_of):
    return adapter_of(llama, 2)


@pytest.fixture
def gist(llama, adapter):
    return compress(llama, adapter, llama.encode(["Negate it: "]))[0]


def written(lm, adapter, gists, inputs, **options):
    options = {"config": GREEDY, **options}
    return [row.text for row in generate_from_gists(lm, adapter, gists, inputs, **options)]


def test_a_loaded_gist_generates_as_the_saved_one(llama, adapter, gist, tmp_path):
    loaded = Gist.load(gist.save(tmp_path / "sub" / "a.gist"))
    assert loaded.provenance == gist.provenance
    assert all(torch.equal(a, b) for a, b in zip(loaded.keys + loaded.values, gist.keys + gist.values, strict=True))
    assert written(llama, adapter, [loaded], ["abc"]) == written(llama, adapter, [gist], ["abc"])


def test_memory_falls_by_the_prompts_length_over_gs(llama, adapter):
    prompt = llama.encode(["a prompt of some length, as they are: "])[0]
    (gist,) = compress(llama, adapter, [prompt])
    cache = llama.model(torch.tensor([prompt]), use_cache=True).past_key_values
    whole = sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
    assert gist.bytes * len(prompt) == whole * gist.tokens
    assert (gist.provenance.prompt_tokens, gist.provenance.end) == (len(prompt), 2)


def test_prompts_compressed_together_are_those_compressed_alone(llama, adapter):
    prompts = llama.encode(["a", "a longer one", "bc", "the longest of all of them"])
    together = compress(llama, adapter, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = compress(llama, adapter, [prompt])
        assert found.provenance == alone.provenance
        for one, other in zip(found.keys + found.values, alone.keys + alone.values, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # float32: padded


def test_different_gists_and_one_gist_serve_a_batch(llama, adapter):
    gists = compress(llama, adapter, llama.encode(["first", "a second, longer"]))
    inputs = ["abc", "d"]
    each = [written(llama, adapter, [gist], [text])[0] for gist, text in zip(gists, inputs, strict=True)]
    assert written(llama, adapter, gists, inputs) == each
    both = [written(llama, adapter, [gists[0]], [text])[0] for text in inputs]
    assert written(llama, adapter, [gists[0]], inputs) == both


def test_samples_share_a_prefill_and_are_what_they_are_alone(llama, adapter, gist):
    draws = GenerationConfig(num_samples=3, max_new_tokens=5)
    together = written(llama, adapter, [gist], ["abc", "de"], config=draws)
    alone = written(llama, adapter, [gist], ["abc", "de"], config=replace(draws, batch_size=1))
    assert together == alone
    assert len(set(together)) > 3


def test_a_gist_and_a_steer_act_together(llama, adapter, gist):
    steers = {"s": random_steer(llama)}
    rows = written(llama, adapter, [gist], ["abc"], steers=steers, strengths=[{"s": 0.0}, {"s": 30.0}])
    assert rows[0] == written(llama, adapter, [gist], ["abc"])[0]
    assert rows[1] != rows[0]


def test_gists_of_another_model_or_damaged_are_refused(llama, make_lm, adapter_of, adapter, gist, tmp_path):
    with pytest.raises(WrongBaseError, match="was fitted on"):
        written(make_lm("qwen2"), adapter_of(make_lm("qwen2"), 2), [gist], ["a"])
    with pytest.raises(WrongBaseError, match="another gist adapter"):
        written(llama, adapter_of(llama, 2, seed=1), [gist], ["a"])
    with pytest.raises(WrongBaseError, match="has 1 layers"):
        written(llama, adapter, [replace(gist, keys=gist.keys[:1], values=gist.values[:1])], ["a"])
    file = gist.save(tmp_path / "a.gist")
    whole = file.read_bytes()
    for damaged in (b"", whole[:50], whole[:-8], b"text", b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="no gist, or damaged"):
            Gist.load(file)
    with pytest.raises(DataError, match="another format"):
        Gist.load(replace(gist, provenance=replace(gist.provenance, format=9)).save(tmp_path / "b.gist"))
    with pytest.raises(DataError, match="no such file"):
        Gist.load(tmp_path / "c.gist")


def test_empty_or_too_long_prompts_and_inputs_are_refused(llama, make_lm, adapter_of, adapter, gist):
    gpt2 = make_lm("gpt2")
    with pytest.raises(DataError, match="prompt 1 is empty"):
        compress(llama, adapter, [[]])
    with pytest.raises(DataError, match="longer than the model's context of 128"):
        compress(gpt2, adapter_of(gpt2), [[5] * 126])
    with pytest.raises(DataError, match="input 2 is empty"):
        written(llama, adapter, [gist], ["a", ""])
    with pytest.raises(DataError, match="2 gists for 3 inputs"):
        written(llama, adapter, [gist, gist], ["a", "b", "c"])
    with pytest.raises(DataError, match="no inputs"):
        written(llama, adapter, [gist], [])
    (long,) = compress(gpt2, adapter_of(gpt2), [[5] * 120])
    with pytest.raises(DataError, match="at the position that its prompt ends at, 122"):
        written(gpt2, adapter_of(gpt2), [long], ["abc"])


def test_two_generations_at_once_leave_the_model_as_it_was(llama, adapter, adapter_of, gist):
    other = adapter_of(llama, 2, seed=1)
    (foreign,) = compress(llama, other, llama.encode(["x"]))
    before = {name: parameter.clone() for name, parameter in llama.model.named_parameters()}
    one, two = (
        generate_from_gists(llama, made_by, [made], ["abc", "de"], config=replace(GREEDY, batch_size=1))
        for made_by, made in ((adapter, gist), (other, foreign))
    )
    first = [next(one).text, next(two).text]
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.model.named_parameters())
    texts = [[first[0], *(row.text for row in one)], [first[1], *(row.text for row in two)]]
    assert texts == [written(llama, adapter, [gist], ["abc", "de"]), written(llama, other, [foreign], ["abc", "de"])]
    with (
        adapter.installed(llama),
        pytest.raises(ModelError, match="another gist adapter installed"),
        other.installed(llama),
    ):
        pass
    with adapter.installed(llama), adapter.installed(llama):
        assert written(llama, adapter, [gist], ["abc", "de"]) == texts[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.model.named_parameters())


def test_a_whole_prompt_that_outgrows_a_window_is_not_kept_in_part(monkeypatch, adapter_of):
    monkeypatch.setitem(FAMILIES, "gemma3_text", {**FAMILIES["gemma3_text"], "sliding_window": 8})
    lm = tiny_lm("gemma3_text")
    prompts = lm.encode(["a prompt that is longer than the window"])
    with pytest.raises(ModelError, match="a shorter window"):
        compress(lm, adapter_of(lm, 2), prompts, condition=GistCondition.POSITIVE)
    assert compress(lm, adapter_of(lm, 2), prompts)[0].tokens == 2
