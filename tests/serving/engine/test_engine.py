from threading import Event, Thread

import pytest
import torch

from asking import results_of
from lmsteer import generate
from lmsteer.errors import LMSteerError
from lmsteer.generation.batch import Batch
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.prefill import prefill_chunk
from lmsteer.gist.compress import compress
from lmsteer.model.kv_cache import NOTHING_BEFORE
from lmsteer.serving.engine.isolation import StepError
from lmsteer.serving.engine.jobs import BusyError, StoppedError
from lmsteer.serving.engine.requests import Request
from lmsteer.steer.mix import Mix
from tiny import random_adapter, random_steer, tiny_lm

PROMPTS = ["a", "It was", "the longest of all of them, by far", "what"]
SAMPLING = [SamplingConfig(temperature=0), SamplingConfig(0.9), SamplingConfig(1.0, 5, 0.7)]
LIMITS = [Limits(), Limits(0.3, 4, 0.1), Limits(), Limits(fresh=99), Limits(kl=0.05)]
GREEDY = SamplingConfig(temperature=0)


def varied_requests(lm, steers, count):
    """Requests of many lengths, strengths and kinds of sampling, and their prompts."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    return prompts, [
        Request(
            lm.encode([prompt])[0],
            steers=steers if i % 3 else {},
            strengths={name: i / 10 - k for k, name in enumerate(steers)} if i % 3 else {},
            sampling=SAMPLING[i % len(SAMPLING)],
            limits=LIMITS[i % len(LIMITS)],
            max_new_tokens=3 + 5 * i % 17,
            seed=i,
            readings=i % 2 == 1,
        )
        for i, prompt in enumerate(prompts)
    ]


def alone(lm, prompt, request):
    """The continuation that ``generate`` gives for one request."""
    fields = {"limits": request.limits, "readings": request.readings}
    config = GenerationConfig(1, request.max_new_tokens, request.sampling, request.seed, **fields)
    (continuation,) = generate(lm, [prompt], request.steers, [request.strengths], config)
    return continuation


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mamba"])
@pytest.mark.parametrize(
    "limits", [{}, {"max_num_seqs": 3}, {"max_cache_tokens": 90}], ids=["all at once", "few at once", "small cache"]
)
def test_batched_sequences_equal_what_generate_gives_alone(engines, family, limits):
    lm = tiny_lm(family)
    steers = {"one": random_steer(lm, "multiply", seed=1), "two": random_steer(lm, "offset", seed=2)}
    engine = engines(lm, headroom=0, **limits)  # so that the small cache also leads to preemptions
    prompts, requests = varied_requests(lm, steers, 14)
    choices = results_of(engine, requests)
    engine.close()
    for prompt, request, choice in zip(prompts, requests, choices, strict=True):
        expected = alone(lm, prompt, request)
        assert (choice.text, choice.tokens) == (expected.text, expected.tokens)
        assert len(choice.readings) == len(expected.readings)
        for found, own in zip(choice.readings, expected.readings, strict=True):  # the sums survive a preemption
            assert found.total_evidence == pytest.approx(own.total_evidence, abs=1e-3)
        assert choice.steered == (choice.tokens if request.steers else 0)
        assert choice.finish in (["stop"] if choice.tokens < request.max_new_tokens else ["length", "stop"])


def test_prompts_are_read_in_larger_chunks_on_an_accelerator(llama, engines):
    assert engines(llama).prefill_chunk == prefill_chunk(llama.device) == 256
    assert engines(llama, prefill_chunk=7).prefill_chunk == 7
    assert prefill_chunk(torch.device("cuda", 0)) == 2048


def test_preempted_sequence_gives_the_same_text(llama, engines):
    engine = engines(llama, max_cache_tokens=60, headroom=0)
    first, second = results_of(engine, [Request([5, 6, 7], sampling=GREEDY, max_new_tokens=40)] * 2)
    assert first.text == second.text
    assert engine.preemptions > 0


def test_preempted_sequence_after_a_gist_is_read_again_after_it(llama, engines):
    adapter = random_adapter(llama, 3)
    (gist,) = compress(llama, adapter, [[5, 6, 7, 8, 9]])
    before = gist.start(adapter.for_rows(llama))
    requests = [Request([5, 6], sampling=GREEDY, max_new_tokens=40, before=each) for each in (NOTHING_BEFORE, before)]
    roomy = [choice.text for choice in results_of(engines(llama), requests)]
    engine = engines(llama, max_cache_tokens=60, headroom=0)
    assert [choice.text for choice in results_of(engine, requests)] == roomy
    assert engine.preemptions > 0
    with pytest.raises(LMSteerError, match="61 tokens are more than the KV cache holds"):
        engine.submit([Request([5, 6], max_new_tokens=56, before=before)], lambda *_: None)


def test_cancelled_sequence_is_removed_and_sends_no_more_text(endless, engines):
    engine, chunks, received = engines(endless), [], Event()

    def on_chunk(_, chunk):
        chunks.append(chunk)
        received.set()

    (sequence,) = engine.submit([Request([5, 6], max_new_tokens=30_000)], on_chunk)
    assert received.wait(30)
    sequence.cancel()
    results_of(engine, [Request([5, 6], max_new_tokens=3)])  # at least one step later
    assert engine.running == 0
    assert chunks[-1].finish is None
    assert chunks[-1].tokens < 30_000


def test_full_queue_is_refused_with_busy_error(endless, engines):
    engine = engines(endless, max_num_seqs=1, max_queue=2)
    long = Request([5, 6], max_new_tokens=30_000)
    sequences = engine.submit([long] * 3, lambda *_: None)
    with pytest.raises(BusyError, match="the queue is full"):
        engine.submit([long], lambda *_: None)
    for sequence in sequences:
        sequence.cancel()
    assert results_of(engine, [Request([5], max_new_tokens=2)])[0].tokens


def test_waiting_sequence_times_out(endless, engines):
    engine = engines(endless, max_num_seqs=1)
    (first,) = engine.submit([Request([5, 6], max_new_tokens=30_000)], lambda *_: None)
    (late,) = results_of(engine, [Request([5], timeout=0.0)])
    assert (late.finish, late.tokens) == ("timeout", 0)
    first.cancel()


def test_preempted_sequence_keeps_its_text_on_timeout(endless, engines):
    made = []
    # The clock jumps with the first preemption, so that only the preempted sequence is late.
    engine = engines(
        endless, clock=lambda: 100.0 * made[0].preemptions if made else 0.0, max_cache_tokens=40, headroom=0
    )
    made.append(engine)
    requests = [Request([5, 6, 7], max_new_tokens=30, timeout=timeout) for timeout in (1e6, 50.0)]
    first, second = results_of(engine, requests)
    assert first.finish == "length"
    assert second.finish == "timeout"
    assert 0 < second.tokens < 30


def test_running_sequence_ends_when_its_time_is_over(endless, engines):
    made = []
    engine = engines(endless, clock=lambda: float(made[0].steps) if made else 0.0)
    made.append(engine)
    (choice,) = results_of(engine, [Request([5, 6], max_new_tokens=30_000, timeout=3.0)])
    assert (choice.finish, choice.tokens) == ("timeout", 3)


def test_request_larger_than_the_cache_is_refused(llama, engines):
    with pytest.raises(LMSteerError, match=r"101 tokens are more than the KV cache holds \(100\)"):
        engines(llama, max_cache_tokens=100).submit([Request([5], max_new_tokens=100)], lambda *_: None)


def test_closed_engine_ends_all_sequences_and_refuses_requests(endless, engines):
    engine, errors = engines(endless, max_num_seqs=1), {}

    def on_chunk(index, chunk):
        if chunk.error:
            errors[index] = chunk.error

    engine.submit([Request([5, 6], max_new_tokens=30_000)] * 2, on_chunk)
    engine.close()
    assert {index for index, error in errors.items() if isinstance(error, StoppedError)} == {0, 1}
    with pytest.raises(StoppedError):
        engine.submit([Request([5])], lambda *_: None)
    with pytest.raises(StoppedError):
        engine.call(lambda: None)


def test_damaged_cache_ends_its_sequences_and_the_waiting_ones_are_served(llama, engines, monkeypatch):
    advance, failures = Batch.advance, []

    def fail_once(self):
        if failures:
            return advance(self)
        failures.append(self)
        raise MemoryError("no memory")

    engine = engines(llama, max_num_seqs=2)
    monkeypatch.setattr(Batch, "advance", fail_once)
    one, two, three = results_of(engine, [Request([5, 6])] * 3)
    assert isinstance(one, StepError)
    assert isinstance(two, StepError)
    assert "no memory" in str(one)
    assert three.tokens


def test_overflowed_sequence_fails_alone(llama, engines):
    steer = random_steer(llama)
    plain = Request([5, 6, 7], sampling=GREEDY, max_new_tokens=8)
    wild = Request([5, 6, 7], {"one": steer}, {"one": 3e38}, SamplingConfig(0.9), max_new_tokens=8)
    engine = engines(llama)
    first, overflowed, last = results_of(engine, [plain, wild, plain])
    engine.close()
    assert str(overflowed) == "the logits overflowed at one=3e+38: lower the strength."
    assert first.text == last.text == alone(llama, llama.tokenizer.decode([5, 6, 7]), plain).text


def test_a_steer_that_was_fitted_anew_acts_in_the_next_request_and_the_old_one_in_those_before(llama, engines):
    steers, engine = [random_steer(llama, seed=seed) for seed in (0, 1)], engines(llama)
    sampled = {"sampling": SamplingConfig(1.0), "max_new_tokens": 8}
    requests = [Request([5, 6, 7], {"one": each}, {"one": 2.0}, **sampled) for each in steers]
    expected = [alone(llama, llama.tokenizer.decode([5, 6, 7]), each).text for each in requests]
    assert [results_of(engine, [each])[0].text for each in requests] == expected
    assert [choice.text for choice in results_of(engine, requests)] == expected
    assert len({*expected}) == 2


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(1.0, 0, 1e-40), SamplingConfig(1e-300), SamplingConfig(1e-300, 1, 1e-3)]
)
def test_extreme_sampling_takes_the_likeliest_token(llama, engines, sampling):
    greedy = Request([5, 6, 7], sampling=GREEDY, max_new_tokens=8)
    extreme = Request([5, 6, 7], sampling=sampling, max_new_tokens=8)
    first, second = results_of(engines(llama), [greedy, extreme])
    assert first.text == second.text


def test_more_sequences_than_the_engine_can_hold_are_refused_for_good(llama, engines):
    with pytest.raises(LMSteerError, match="more than the engine can hold") as refused:
        engines(llama, max_num_seqs=1, max_queue=2).submit([Request([5])] * 4, lambda *_: None)
    assert not isinstance(refused.value, BusyError)


def test_jobs_that_wait_when_the_engine_closes_fail(endless, engines):
    engine, entered, go = engines(endless, max_queue=1), Event(), Event()
    running = engine.call(lambda: (entered.set(), go.wait(30)))
    assert entered.wait(30)
    waiting = engine.call(lambda: 1)
    with pytest.raises(BusyError):
        engine.call(lambda: 2)
    closing = Thread(target=engine.close)
    closing.start()
    with pytest.raises(StoppedError):
        waiting.result(30)
    go.set()
    closing.join(30)
    assert running.result(30)


def test_sequences_go_on_while_a_job_runs(endless, engines):
    engine, entered, go = engines(endless), Event(), Event()
    job = engine.call(lambda: (entered.set(), go.wait(30)))
    assert entered.wait(30)
    (choice,) = results_of(engine, [Request([5, 6], max_new_tokens=5)])
    assert choice.tokens == 5
    assert not job.done()
    go.set()
    assert job.result(30)


def test_jobs_see_the_unsteered_model(endless, engines):
    engine, steer = engines(endless), random_steer(endless)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = endless.model(input_ids=ids).logits
    received = Event()
    request = Request([5, 6], {"one": steer}, {"one": 3.0}, max_new_tokens=2_000)
    (sequence,) = engine.submit([request], lambda *_: received.set())
    assert received.wait(30)
    hidden = engine.call(lambda: endless.hidden_states(ids, torch.ones_like(ids))).result(30)
    torch.testing.assert_close(endless.head.logits(hidden[0]), expected[0], rtol=1e-5, atol=1e-6)  # another product
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(30)
    sequence.cancel()


def test_logprobs_are_those_under_the_steers(llama, engines):
    steer = random_steer(llama)
    request = Request([5, 6, 7], {"one": steer}, {"one": 2.0}, GREEDY, max_new_tokens=4, num_logprobs=3)
    engine = engines(llama)
    (choice,) = results_of(engine, [request])
    engine.close()
    text = [*request.ids, *(logprob.token for logprob in choice.logprobs)]
    with llama.steered(Mix({"one": steer}, {"one": 2.0})), torch.inference_mode():
        log_p = llama.model(input_ids=torch.tensor([text])).logits[0, 2:-1].log_softmax(-1)
    for logprob, line in zip(choice.logprobs, log_p, strict=True):
        values, ids = line.topk(3)
        assert list(logprob.top) == ids.tolist()
        assert list(logprob.top.values()) == pytest.approx(values.tolist(), abs=1e-5)
        assert logprob.log_p == pytest.approx(float(values[0]), abs=1e-5)
