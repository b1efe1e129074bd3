"""Both model runners write the same log, row by row, and it is that of the steers' definition. Runs without vLLM."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.errors import WrongBaseError
from lmsteer.generation.config import NO_LIMITS, Limits
from lmsteer.model.fingerprints import head_sample
from lmsteer.model.head import HeadShard
from lmsteer.serving.vllm.after_head import AfterHead, HeadPass
from lmsteer.serving.vllm.asked import Asked
from lmsteer.serving.vllm.before_head import BeforeHead, SteeredRow
from lmsteer.serving.vllm.limits import RULED_OUT
from lmsteer.steer.mix import Mix
from lmsteer.steer.strength import Windowed
from lmsteer.steer.window import Window
from pretended_runners import Model, Request, first_runner, second_runner
from tiny import random_steer

# float32, logits of up to a hundred: products in another order.
TOLERANCE = 5e-5
NUMBERS = st.floats(-2, 2, width=32)
WINDOWS = st.sampled_from(["1..", "..2", "1..3", "rise..4", "fall1..3"]).map(Window.parse)
STRENGTHS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["multiply", "add", "offset"]),
        st.one_of(NUMBERS, st.builds(Windowed, NUMBERS, WINDOWS)),
        min_size=1,
    ),
)
LIMITS = st.sampled_from([NO_LIMITS, NO_LIMITS, Limits(plausible=0.1), Limits(kl=0.2), Limits(plausible=0.01, kl=1.0)])


@pytest.fixture(scope="module")
def weight(llama):
    """E, large enough for logits that differ."""
    return llama.head.weight.detach().float() * 4


@pytest.fixture(scope="module")
def steers(llama, weight):
    """Steers of three forms, which belong to that E."""
    card = replace(llama.card("any"), head_sample=tuple(head_sample(weight, len(weight), 0).values()))
    return {
        form: replace(random_steer(llama, form, seed=k), card=replace(card, name=form))
        for k, form in enumerate(("multiply", "add", "offset"))
    }


def head_pass(weight, count, **changed):
    """The head was called for so many rows."""
    h = torch.randn(count, weight.shape[1], generator=torch.Generator().manual_seed(0))
    logits = h @ weight.T
    made = HeadPass(h, HeadShard(weight, 0, len(weight), len(weight)), None, logits, lambda z: z, lambda part: part)
    return replace(made, **changed)


def context(*slots):
    return SimpleNamespace(expanded_idx_mapping=torch.tensor(slots), idx_mapping_np=np.array(slots), pos=None)


def no_prompts():
    raise AssertionError("without windows nobody asks for the lengths of prompts")


# The same examples each time: λ of a limit is a multiple of 1/128, and where a divergence is all but the budget,
# rounding decides which.
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    asked=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), STRENGTHS, LIMITS), min_size=1, max_size=7),
    seed=st.integers(0, 99),
    drafts=st.integers(0, 3),
    part=st.sampled_from([1, 2, 10**6]),
    shape=st.sampled_from([(1.0, None), (0.25, None), (1.0, 2.0), (0.5, 3.0)]),
)
def test_both_runners_write_the_same_log(steers, weight, asked, seed, drafts, part, shape):
    model = Model(weight, *shape)
    requests = [
        Request(number, arrival, length, wanted and Asked({name: steers[name] for name in wanted}, wanted, limits))
        for number, (arrival, length, wanted, limits) in enumerate(asked)
    ]
    first = first_runner(model, requests)
    second = second_runner(model, requests, seed, drafts, part)
    assert first.keys() == second.keys()
    assert len(first) == sum(request.length for request in requests)
    for request in requests:
        tokens = []
        for place in range(request.length):
            expected = model.expected(request, tokens)
            for log in (first, second):
                # The logits of words that a limit rules out are some ten thousand below the others.
                torch.testing.assert_close(log[request.number, place], expected, rtol=1e-6, atol=TOLERANCE)
            tokens.append(request.next(place))


@settings(max_examples=20, deadline=None)
@given(shards=st.integers(1, 3), strength=st.floats(-2, 2, width=32), seed=st.integers(0, 9))
def test_processes_with_a_part_of_the_head_each_steer_alike(steers, weight, shards, strength, seed):
    whole = head_pass(weight, 3)
    asked, rows = Asked(steers, dict.fromkeys(steers, strength)), len(weight)

    def steered(made):
        state = AfterHead(4, torch.device("cpu"), no_prompts, raw=False)
        state.put(2, asked)
        state.remember(made)
        return state.steer(made.logits.clone(), context(0, 2, 1))

    alone = steered(whole)
    edges = [len(weight) * k // shards for k in range(shards + 1)]
    heads = [HeadShard(weight[first:last], first, last, len(weight)) for first, last in pairwise(edges)]
    parts = list[torch.Tensor]()
    for head in heads:  # what each process hands to the others
        steered(replace(whole, head=head, gather=lambda part: parts.append(part) or part.new_zeros(len(part), rows)))
    for head in heads:
        joined = replace(whole, head=head, gather=lambda _: torch.cat(parts, 1))
        torch.testing.assert_close(steered(joined), alone, rtol=0, atol=TOLERANCE)


def test_rows_that_the_head_did_not_see_are_refused(steers, weight):
    state = AfterHead(2, torch.device("cpu"), no_prompts, raw=False)
    state.put(0, Asked({"add": steers["add"]}, {"add": 1.0}))
    logits = torch.zeros(1, len(weight))
    with pytest.raises(RuntimeError, match="did not see"):
        state.steer(logits, context(0))
    made = head_pass(weight, 1)
    state.remember(made)
    state.steer(made.logits.clone(), context(0))
    with pytest.raises(RuntimeError, match="did not see"):  # a pass is for one step
        state.steer(made.logits.clone(), context(0))


def test_logits_that_the_model_has_changed_are_refused(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=False), head_pass(weight, 2)
    state.put(0, Asked({"add": steers["add"]}, {"add": 1.0}))
    state.remember(made)
    with pytest.raises(RuntimeError, match="changes its logits after"):
        state.steer(2 * made.logits, context(0, 1))


def test_penalties_and_grammars_stay_as_they_are(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=False), head_pass(weight, 1)
    state.put(0, Asked({"multiply": steers["multiply"]}, {"multiply": 2.0}))
    changed = made.logits.clone()
    changed[0, 3] -= 1.5
    changed[0, 7] = -torch.inf
    state.remember(made)
    plain = state.steer(made.logits.clone(), context(0))
    state.remember(made)
    found = state.steer(changed.clone(), context(0))
    assert found[0, 7] == -torch.inf
    torch.testing.assert_close(found[0, 3], plain[0, 3] - 1.5, rtol=0, atol=TOLERANCE)


def capped(weight, dtype=torch.float32):
    """A pass of a model with a soft cap, as vLLM keeps it."""

    def post(raw):
        return 3 * torch.tanh(raw / 3)

    made = head_pass(weight, 2)
    raw = made.logits.to(dtype)
    return replace(made, h=made.h.to(dtype), raw=raw, logits=post(raw), post=post)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_steers_stay_bit_for_bit_under_a_soft_cap(steers, weight, dtype):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=True), capped(weight, dtype)
    before = made.logits.clone()
    state.put(1, Asked({"multiply": steers["multiply"]}, {"multiply": 2.0}))
    state.remember(made)
    found = state.steer(made.logits.float(), context(0, 1))
    assert torch.equal(found[0], before[0].float())
    assert torch.equal(made.logits[0], before[0])
    assert not torch.equal(found[1], before[1].float())


def test_words_that_a_grammar_has_forbidden_in_the_model_s_logits_stay_forbidden(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=True), capped(weight)
    plain = made.logits.clone()
    made.logits[0, 3] = -torch.inf  # vLLM writes into what the head has made
    state.put(0, Asked({"multiply": steers["multiply"]}, {"multiply": 2.0}))
    state.remember(made)
    found = state.steer(made.logits.clone(), context(0, 1))
    assert found[0, 3] == made.logits[0, 3] == -torch.inf
    assert found[:, :3].isfinite().all()
    assert not torch.equal(found[0, :3], plain[0, :3])


@pytest.mark.parametrize("cap", [False, True])
def test_words_that_a_grammar_has_forbidden_stay_forbidden_within_limits(steers, weight, cap):
    state = AfterHead(2, torch.device("cpu"), no_prompts, raw=True)
    made = capped(weight) if cap else head_pass(weight, 2)
    made.logits[0, 3] = -torch.inf  # vLLM writes into what the head has made
    untouched = made.logits[1].clone()
    likeliest = made.logits[0].argmax()
    state.put(0, Asked({"multiply": steers["multiply"]}, {"multiply": 2.0}, Limits(plausible=0.5, kl=1.0)))
    state.remember(made)
    found = state.steer(made.logits.clone(), context(0, 1))
    assert not found.isnan().any()
    assert found[0, 3] == -torch.inf
    assert found[0, likeliest] > -100
    assert (found[0] < -RULED_OUT / 2).sum() > 1
    assert torch.equal(found[1], untouched)


def test_nothing_of_a_pass_is_kept_if_no_request_is_steered(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=True, in_parts=True), head_pass(weight, 2)
    assert state.put(0, None)  # its rows come all the same
    state.remember(made)
    assert state._pass is None
    assert torch.equal(state.steer(made.logits.clone(), context(0)), made.logits)
    state.put(1, Asked({"add": steers["add"]}, {"add": 1.0}))
    state.remember(made)
    state.steer(made.logits.clone(), context(0, 1))
    assert state._pass is None


def test_rows_in_which_most_words_are_forbidden_are_not_taken_for_changed_ones(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=False), head_pass(weight, 1)
    state.put(0, Asked({"add": steers["add"]}, {"add": 1.0}))
    allowed = torch.full_like(made.logits, -torch.inf)
    allowed[0, 5] = made.logits[0, 5] - 1
    state.remember(made)
    found = state.steer(allowed.clone(), context(0))
    assert found.isfinite().nonzero().tolist() == [[0, 5]]
    state.remember(made)
    with pytest.raises(RuntimeError, match="changes its logits after"):
        state.steer(2 * made.logits, context(0))


def test_logits_that_are_reported_are_steered_if_they_are_the_raw_ones(steers, weight):
    for raw in (False, True):
        state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=raw), head_pass(weight, 2)
        before = made.logits.clone()
        state.put(1, Asked({"add": steers["add"]}, {"add": 1.0}))
        state.remember(made)
        steered = state.steer(made.logits.clone(), context(0, 1))
        torch.testing.assert_close(made.logits, steered if raw else before, rtol=0, atol=0)
        assert torch.equal(steered[0], before[0])
        assert not torch.equal(steered[1], before[1])


def test_a_slot_forgets_the_request_that_had_it(steers, weight):
    state, made = AfterHead(2, torch.device("cpu"), no_prompts, raw=False), head_pass(weight, 1)
    state.put(0, Asked({"add": steers["add"]}, {"add": 1.0}))
    state.remember(made)
    assert not torch.equal(state.steer(made.logits.clone(), context(0)), made.logits)
    state.put(0, None)
    state.remember(made)
    assert torch.equal(state.steer(made.logits.clone(), context(0)), made.logits)


@pytest.mark.parametrize("runner", ["first", "second"])
def test_steers_stay_on_the_device_when_the_batch_changes(steers, weight, runner, monkeypatch):
    """The factors of a steer are put together once, whatever the strengths of the requests."""
    made = list[str]()
    joined = Mix._joined
    monkeypatch.setattr(Mix, "_joined", lambda self, form, *rest: made.append(form) or joined(self, form, *rest))
    requests = [
        Request(number, number, 3, Asked({"multiply": steers["multiply"]}, {"multiply": float(number)}))
        for number in range(1, 9)
    ]
    run = first_runner if runner == "first" else partial(second_runner, seed=0)
    assert len(run(Model(weight), requests)) == 24
    assert made.count("add") == 1


@pytest.mark.parametrize("runner", ["first", "second"])
def test_a_steer_of_another_head_is_refused(steers, weight, runner):
    request = Request(0, 0, 1, Asked({"multiply": steers["multiply"]}, {"multiply": 1.0}))
    run = first_runner if runner == "first" else partial(second_runner, seed=0)
    with pytest.raises(WrongBaseError, match="another than that of the model at hand"):
        run(Model(weight + 1), [request])


def test_rows_that_were_not_announced_are_not_steered(steers, weight):
    state = BeforeHead()
    head, h = HeadShard(weight, 0, len(weight), len(weight)), torch.zeros(3, weight.shape[1])
    assert state.mix(h, head) is None  # memory profiling
    state.rows[0] = SteeredRow(Asked({"add": steers["add"]}, {"add": 1.0}), [])
    state.announce(1)
    assert state.mix(h[:1], head) is not None
    assert state.mix(h, head) is None  # log-likelihoods of a prompt
    state.announce(None)
    with pytest.raises(RuntimeError, match="1 rows were announced"):
        state.mix(h, head)


def test_a_model_without_the_layer_is_refused(steers):
    state = BeforeHead()
    state.announce(1)
    state.check_acted()
    state.rows[0] = SteeredRow(Asked({"add": steers["add"]}, {"add": 1.0}), [])
    state.announce(1)
    with pytest.raises(RuntimeError, match="cannot be steered"):
        state.check_acted()
