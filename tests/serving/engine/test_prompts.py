"""Log-likelihoods of prompts: those of the model's own forward pass under the steers, however they are read."""

import time
from threading import Event

import pytest
import torch

from asking import results_of
from lmsteer.errors import SteerError
from lmsteer.generation.config import SamplingConfig
from lmsteer.model import head
from lmsteer.reading.likelihood import next_token_log_likelihoods, steered_log_likelihoods
from lmsteer.serving.engine.requests import Request
from lmsteer.steer.mix import Mix
from tiny import random_steer, tiny_lm

# float32 sums in another order, over two layers.
TOLERANCE = 1e-4
GREEDY = SamplingConfig(temperature=0)


def ids_of(length, seed=0):
    return torch.randint(3, 200, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def whole_pass(lm, request):
    """Log-likelihoods (T - 1, V) of the next tokens in one forward pass of the steered model."""
    with lm.steered(Mix(request.steers, request.strengths)):
        logits = lm.model(input_ids=torch.tensor([request.ids]), use_cache=False).logits
    return torch.log_softmax(logits[0, :-1].float(), -1)


def check(lm, request, choice):
    """A choice has the log-likelihoods of the whole forward pass, and its likeliest tokens."""
    expected, top = whole_pass(lm, request), request.num_logprobs
    assert [each.token for each in choice.prompt] == list(request.ids[1:])
    for record, log_p in zip(choice.prompt, expected, strict=True):
        assert record.log_p == pytest.approx(float(log_p[record.token]), abs=TOLERANCE)
        values, tokens = log_p.topk(top)
        assert list(record.top.values()) == pytest.approx(values.tolist(), abs=TOLERANCE)
        assert sorted(record.top) == sorted(tokens.tolist())


def varied(lm, count):
    """Requests of all lengths, some of one prompt at several strengths, some without new tokens."""
    steers = {"one": random_steer(lm, "multiply", seed=1), "two": random_steer(lm, "offset", seed=2)}
    return [
        Request(
            ids_of((1, 30, 2, 9)[i % 4], seed=i % 3),
            steers=steers if i % 4 else {},
            strengths={"one": i / 5, "two": 1 - i / 4} if i % 4 else {},
            sampling=GREEDY,
            max_new_tokens=(0, 1, 6)[i % 3],
            echo=True,
            num_logprobs=i % 5,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bloom", "granite", "mamba"])
def test_the_prompts_of_a_batch_get_the_log_likelihoods_of_the_whole_forward_pass(engines, family):
    lm = tiny_lm(family)
    requests = varied(lm, 14)
    for request, choice in zip(requests, results_of(engines(lm, prefill_chunk=4), requests), strict=True):
        check(lm, request, choice)


def test_log_likelihoods_of_prompts_are_those_that_the_commands_read(llama, engines):
    ids, steer = [ids_of(40), ids_of(7, seed=1)], random_steer(llama)
    requests = [Request(each, {"s": steer}, {"s": 2.0}, max_new_tokens=0, echo=True, num_logprobs=0) for each in ids]
    for choice, expected in zip(
        results_of(engines(llama), requests), steered_log_likelihoods(llama, ids, [steer], [2.0]), strict=True
    ):
        assert [each.log_p for each in choice.prompt] == pytest.approx(expected[0, 0].tolist(), abs=TOLERANCE)


def test_a_request_for_no_new_tokens_ends_with_its_prompt(llama, engines):
    engine = engines(llama)
    silent, scored, single = results_of(
        engine,
        [
            Request([5, 6, 7], max_new_tokens=0),
            Request([5, 6, 7], max_new_tokens=0, echo=True, num_logprobs=1),
            Request([5], max_new_tokens=0, echo=True, num_logprobs=1),
        ],
    )
    for choice in (silent, scored, single):
        assert (choice.text, choice.tokens, choice.finish) == ("", 0, "length")
    assert (silent.prompt, single.prompt, len(scored.prompt)) == (None, [], 2)
    for _ in range(500):  # the last chunk is sent a moment before the rows are removed
        if not engine.cache_bytes:
            break
        time.sleep(0.01)
    assert (engine.running, engine.steps, engine.cache_bytes) == (0, 0, 0)


def test_log_likelihoods_of_a_preempted_sequence_are_sent_once(endless, engines):
    engine, sent, ended = engines(endless, max_cache_tokens=60, headroom=0), [0, 0], []
    done = Event()

    def on_chunk(index, chunk):
        sent[index] += chunk.prompt is not None
        if chunk.finish:
            ended.append(chunk)
            if len(ended) == 2:
                done.set()

    engine.submit([Request([5, 6, 7], sampling=GREEDY, max_new_tokens=40, echo=True, num_logprobs=0)] * 2, on_chunk)
    assert done.wait(30)
    assert engine.preemptions > 0
    assert sent == [1, 1]


def test_a_prompt_whose_logits_overflow_fails_alone(llama, engines):
    steer = {"s": random_steer(llama)}
    good = Request(ids_of(9), steer, {"s": 1.0}, max_new_tokens=0, echo=True, num_logprobs=1)
    bad = Request(ids_of(9), steer, {"s": 3e38}, max_new_tokens=0, echo=True, num_logprobs=1)
    first, error, last = results_of(engines(llama), [good, bad, good])
    assert type(error) is SteerError
    assert "overflowed" in str(error)
    check(llama, good, first)
    check(llama, good, last)


def test_running_sequences_go_on_while_the_log_likelihoods_of_a_long_prompt_are_read(chunks_before):
    request = Request(ids_of(80), max_new_tokens=0, echo=True, num_logprobs=1)
    assert chunks_before(request) >= 19  # twenty chunks


def test_no_more_logits_are_held_than_a_piece(llama, monkeypatch):
    vocabulary, d = llama.head.weight.shape
    monkeypatch.setattr(head, "PIECE_NUMBERS", 3 * vocabulary)
    mix = Mix({"s": random_steer(llama)}, {"s": [0.5] * 10})
    assert [len(piece) for piece in next_token_log_likelihoods(llama.head, torch.randn(10, d), mix)] == [3, 3, 3, 1]
