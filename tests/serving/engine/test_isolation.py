"""One sequence on which something fails never changes what the others get."""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asking import results_of
from lmsteer import generate
from lmsteer.errors import DataError, LMSteerError, SteerError
from lmsteer.generation import decoder
from lmsteer.generation.batch import Batch
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.row import row_noise
from lmsteer.model.kv_cache import Start
from lmsteer.serving.engine.engine import Engine, EngineConfig
from lmsteer.serving.engine.isolation import StepError, isolated
from lmsteer.serving.engine.requests import Request
from tiny import random_steer, tiny_lm

ROWS, NEW_TOKENS = 32, 5
# Longer than every other prompt with its new text, so that only the poisoned row has tokens behind this position.
POISONED_PROMPT = "x" * 40
STOP = "the stop string of the poisoned request"
SEED = 77
SAMPLING = [SamplingConfig(temperature=0), SamplingConfig(0.9), SamplingConfig(1.0, 5, 0.7)]


class Panic(BaseException):
    """As the panics of libraries in Rust, which are no exceptions."""


@contextmanager
def failing_pass(lm, position):
    """Forward passes over a token at a position fail."""

    def fail(_, __, inputs):
        if (inputs["position_ids"] == position).any():
            raise RuntimeError("poisoned")

    hook = lm.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def nan_behind(lm, position):
    """Hidden states from a position on are nan."""
    positions = []
    hooks = [
        lm.model.register_forward_pre_hook(
            lambda _, __, inputs: positions.append(inputs["position_ids"]), with_kwargs=True
        ),
        lm.model.get_input_embeddings().register_forward_hook(
            lambda _, __, output: output.masked_fill((positions.pop() >= position)[..., None], torch.nan)
        ),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def failing_draw(when):
    noise, whole = row_noise(SEED, 0, 0, NEW_TOKENS)[when], decoder.draw

    def draw(scores, noises, sampling):
        if noise in noises:
            raise RuntimeError("poisoned")
        return whole(scores, noises, sampling)

    return patch.object(decoder, "draw", draw)


def failing_text(when):
    whole = Detokenizer.add

    def add(self, token):
        if STOP in self._stop and len(self._ids) == when:
            raise Panic("poisoned")
        return whole(self, token)

    return patch.object(Detokenizer, "add", add)


class FailingFactors(dict):
    """The factors of a steer that cannot be put on the model's device."""

    def __getitem__(self, name):
        raise MemoryError("poisoned")


@pytest.fixture(scope="module")
def crowd():
    """A model, requests of many kinds, and what each gets alone."""
    lm = tiny_lm("llama")
    steers = {"style": random_steer(lm)}
    requests, expected = [], []
    for i in range(ROWS - 1):
        prompt = "It was the longest of all"[: 1 + 5 * i % 25]
        steered = (steers, {"style": i / 10}) if i % 3 else ({}, {})
        request = Request(lm.encode([prompt])[0], *steered, SAMPLING[i % 3], 2 + i % (NEW_TOKENS - 1), seed=i)
        config = GenerationConfig(1, request.max_new_tokens, request.sampling, request.seed)
        requests.append(request)
        expected += [c.text for c in generate(lm, [prompt], steered[0], [steered[1]], config)]
    return lm, requests, expected


@settings(max_examples=12)
@given(
    st.sampled_from(["prefill", "decode", "nan", "draw", "text", "callback", "steer"]),
    st.integers(0, ROWS - 1),
    st.integers(0, NEW_TOKENS - 1),
    st.sampled_from([{}, {"max_num_seqs": 5}, {"prefill_chunk": 16}]),
)
def test_one_poisoned_row_ends_alone(crowd, where, place, when, limits):
    lm, requests, expected = crowd
    (ids,) = lm.encode([POISONED_PROMPT])
    steer = random_steer(lm, name="other")
    strengths = {"other": 1.0} if where == "steer" else {}
    poisoned = Request(
        ids, {"other": steer} if strengths else {}, strengths, SAMPLING[1], NEW_TOKENS, SEED, stop=[STOP]
    )
    engine, calls = Engine(lm, EngineConfig(**limits)), [0]

    def on_chunk(_, chunk):
        calls[0] += 1
        if calls[0] > when and not chunk.error:
            raise ValueError("poisoned")

    with ExitStack() as stack:
        if where == "prefill":
            stack.enter_context(failing_pass(lm, 33 + when))
        elif where == "decode":
            stack.enter_context(failing_pass(lm, len(ids) - 1 + max(1, when)))
        elif where == "nan":
            stack.enter_context(nan_behind(lm, 30 + when))
        elif where == "draw":
            stack.enter_context(failing_draw(when))
        elif where == "text":
            stack.enter_context(failing_text(when))
        elif where == "steer":
            stack.callback(object.__setattr__, steer, "factors", steer.factors)
            object.__setattr__(steer, "factors", FailingFactors())
        stack.callback(engine.close)
        everyone = [*requests[:place], poisoned, *requests[place:]]
        results = results_of(engine, everyone, watch={place: on_chunk} if where == "callback" else {})
    (error,) = results[place : place + 1]
    assert isinstance(error, StepError)
    assert where == "nan" or "poisoned" in str(error)
    assert [choice.text for choice in results[:place] + results[place + 1 :]] == expected


def test_nan_of_a_row_stays_out_of_the_row_that_takes_its_place(crowd):
    lm, batch, texts = crowd[0], Batch(crowd[0]), [[5 + k for k in range(29)], [7, 8, 9]]
    with nan_behind(lm, 30), torch.inference_mode():
        for text in (texts[0], [6] * 40):
            list(batch.prefill([Start(text)]))
        assert batch.forward(torch.tensor([texts[0][-1], 6])).isnan().any(-1).tolist() == [False, True]
        batch.remove(1)
        list(batch.prefill([Start(texts[1])]))
        logits = batch.forward(torch.tensor([text[-1] for text in texts]))
    with torch.inference_mode():
        alone = torch.cat([lm.model(input_ids=torch.tensor([text])).logits[:, -1] for text in texts])
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_a_steer_of_huge_factors_ends_its_own_rows_alone(engines, crowd):
    lm, requests, expected = crowd
    steer = random_steer(lm, name="huge")
    huge = {name: factor.sign() * 3e38 for name, factor in steer.factors.items()}
    wild = Request(requests[0].ids, {"huge": type(steer)("multiply", huge, 32, 259, steer.card)}, {"huge": 1.0})
    results = results_of(engines(lm), [wild, *requests])
    assert isinstance(results[0], SteerError)
    assert [choice.text for choice in results[1:]] == expected


@pytest.mark.parametrize("ids", [[5, 400], [5, -1], []], ids=repr)
def test_ids_that_the_model_cannot_read_are_refused_at_once(engines, crowd, ids):
    with pytest.raises(DataError, match="token"):
        engines(crowd[0]).submit([Request([5]), Request(ids)], lambda *_: None)


def test_a_steer_of_another_model_is_refused_at_once(engines, crowd):
    other = random_steer(tiny_lm("gpt2"))
    with pytest.raises(SteerError, match="was fitted on"):
        engines(crowd[0]).submit([Request([5], {"one": other}, {"one": 1.0})], lambda *_: None)
    with pytest.raises(SteerError, match="finite"):
        engines(crowd[0]).submit([Request([5], {"one": random_steer(crowd[0])}, {"one": float("nan")})], print)


@pytest.mark.parametrize("tensor", [0, 3])
def test_short_memory_for_the_cache_preempts_and_ends_nothing(engines, crowd, tensor):
    """Memory runs out in one of the layers, whose buffers then differ in size from the others'."""
    lm, requests, expected = crowd
    new_zeros, failures = torch.Tensor.new_zeros, [0]

    def short(self, rows, *shape, **options):
        if rows > 4 and len(shape) == 3:
            failures[0] += 1
            if failures[0] % 4 == tensor:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return new_zeros(self, rows, *shape, **options)

    engine = engines(lm)
    with patch.object(torch.Tensor, "new_zeros", short):
        results = results_of(engine, requests)
        engine.close()
    assert failures[0]
    assert [getattr(choice, "text", choice) for choice in results] == expected


def test_pass_that_fails_for_many_rows_is_run_for_fewer(engines, crowd):
    lm, requests, expected = crowd
    forward = Batch.forward

    def limited(self, ids, first=0):
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, ids, first)

    with patch.object(Batch, "forward", limited):
        engine = engines(lm)
        results = results_of(engine, requests)
        engine.close()
    assert [choice.text for choice in results] == expected


def test_items_that_fail_alone_are_left_out_and_the_others_keep_their_order():
    failed, attempts = {}, []

    def run(items):
        attempts.append(list(items))
        if {2, 5} & set(items):
            raise ZeroDivisionError("no")
        return sum(items)

    parts = isolated(run, range(8), failed.__setitem__)
    assert [(list(items), total) for items, total in parts] == [([0, 1], 1), ([3], 3), ([4], 4), ([6, 7], 13)]
    assert [*failed] == [2, 5]
    assert str(failed[2]) == "the step failed: ZeroDivisionError: no"
    assert isolated(run, [], failed.__setitem__) == []
    own = LMSteerError("own")
    assert not isolated(lambda _: (_ for _ in ()).throw(own), [7], failed.__setitem__)
    assert failed[7] is own
