"""The engine with steers that act inside the model: rows are what ``generate`` gives alone."""

from __future__ import annotations

import pytest

from asking import results_of
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.serving.engine.requests import Request
from tiny import inner_steer, random_steer, tiny_lm

SAMPLING = [SamplingConfig(temperature=0), SamplingConfig(0.9), SamplingConfig(1.0, 5, 0.7)]


def alone(lm, prompt, request):
    """The text that ``generate`` gives for one request."""
    config = GenerationConfig(1, request.max_new_tokens, request.sampling, request.seed)
    return next(generate(lm, [prompt], request.steers, [request.strengths], config)).text


@pytest.mark.parametrize("family", ["llama", "mamba"])
@pytest.mark.parametrize("size", [90, 4000])
def test_sequences_steered_inside_the_model_equal_what_generate_gives_alone(engines, family, size):
    lm = tiny_lm(family)
    outside, inside = random_steer(lm), inner_steer(lm, ["layers.0", "layers.1"], head=True)
    kinds = [({}, {}), ({"out": outside}, {"out": 1.0}), ({"in": inside}, {"in": 1.5}), ({"in": inside}, {"in": -2.0})]
    kinds.append(({"in": inside, "out": outside}, {"in": 0.5, "out": -1.0}))
    prompt = "the same beginning of all prompts, longer than what is kept, "  # so that prefixes would be shared
    requests = [
        Request(lm.encode([f"{prompt}{k % 2}"])[0], *kinds[k % 5], SAMPLING[k % 3], max_new_tokens=8, seed=k)
        for k in range(10)
    ]
    engine = engines(lm, headroom=0, max_cache_tokens=size)
    choices = [results_of(engine, [request])[0] for request in requests[:5]] + results_of(engine, requests[5:])
    for k, (request, choice) in enumerate(zip(requests, choices, strict=True)):
        assert choice.text == alone(lm, f"{prompt}{k % 2}", request)
    assert family == "mamba" or len({choice.text for choice in choices[:5]}) > 3  # a random Mamba repeats itself


def test_the_tokens_of_a_prompt_are_scored_as_the_steered_model_reads_them(llama, engines):
    steer, ids = inner_steer(llama, ["layers.0"], head=True), [5, 6, 7, 8, 9]
    request = Request(ids, {"s": steer}, {"s": 2.0}, SAMPLING[0], max_new_tokens=1, echo=True, num_logprobs=0)
    (choice,) = results_of(engines(llama), [request])
    (expected,) = steered_log_likelihoods(llama, [ids], [steer], [2.0])
    assert [line.log_p for line in choice.prompt] == pytest.approx(expected[0, 0].tolist(), abs=1e-4)
