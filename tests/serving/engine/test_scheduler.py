"""Prompts are prefilled in chunks, between which the running sequences get tokens."""

from contextlib import contextmanager
from threading import Event

from asking import results_of
from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Request


@contextmanager
def before_each_pass(lm, action):
    """Call ``action`` before each forward pass of a model."""
    hook = lm.model.register_forward_pre_hook(lambda *_: action())
    try:
        yield
    finally:
        hook.remove()


def test_running_sequences_go_on_while_a_long_prompt_is_read(chunks_before):
    ids = [5 + k % 90 for k in range(80)]
    # Twenty chunks, with a token for the first sequence after each but the last, in which both have one.
    assert chunks_before(Request(ids, max_new_tokens=3)) >= 19


def test_cancelled_prompt_is_read_no_further(endless, engines):
    engine = engines(endless, prefill_chunk=1)
    passes, started, go_on, ended = [], Event(), Event(), Event()

    def wait():
        passes.append(1)
        started.set()
        assert go_on.wait(30)

    with before_each_pass(endless, wait):
        (sequence,) = engine.submit([Request([5] * 50, max_new_tokens=3)], lambda *_: ended.set())
        assert started.wait(30)
        sequence.cancel()
        go_on.set()
        assert ended.wait(30)
    assert len(passes) <= 2
    (after,) = results_of(engine, [Request([5, 6, 7], max_new_tokens=3)])
    assert after.tokens == 3


def test_prompt_that_takes_too_long_to_read_is_refused_for_good(endless, engines):
    passes = [0]

    def count():
        passes[0] += 1

    engine = engines(endless, clock=lambda: float(passes[0]), prefill_chunk=1)
    with before_each_pass(endless, count):
        (error,) = results_of(engine, [Request([5] * 50, max_new_tokens=3, timeout=10.0)])
    assert type(error) is LMSteerError
    assert "before its prompt was read" in str(error)
    assert engine.running == 0
    assert passes[0] < 50


def test_prompts_that_begin_alike_are_read_from_where_they_differ(llama, engines):
    system, read = [5 + k % 90 for k in range(40)], []
    requests = [Request([*system, 60 + k], max_new_tokens=4, seed=k) for k in range(3)]
    expected = [results_of(engines(llama, max_prefix_tokens=0), [request])[0].text for request in requests]
    engine = engines(llama)
    embedding = llama.model.get_input_embeddings()
    with embedding.register_forward_hook(lambda _, args, __: read.append(args[0].numel())):
        found = [results_of(engine, [request])[0] for request in requests]
    assert [each.text for each in found] == expected
    assert [each.cached for each in found] == [0, 40, 40]
    assert read == [40, *[1] * 12]
    assert engine.prefix_tokens == 2 * 40
    alike = [Request([*system, 99], max_new_tokens=2, seed=k) for k in range(3)]
    read.clear()
    with embedding.register_forward_hook(lambda _, args, __: read.append(tuple(args[0].shape))):
        results_of(engine, alike)
    assert read == [(3, 1), (3, 1)]  # one token after what is kept: nothing to read
    assert engine.prefix_tokens == 3 * 40
    echoed = Request([*system, 60], max_new_tokens=1, echo=True, num_logprobs=0)
    (whole,) = results_of(engine, [echoed])
    assert len(whole.prompt) == 40
    assert whole.cached == 0  # its prompt is read
