from threading import Event, Thread

import pytest
import torch

from asking import answers
from lmsteer import generate
from lmsteer.errors import LMSteerError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.serving.engine.engine import BusyError, StepError, StoppedError
from lmsteer.serving.engine.requests import Request
from lmsteer.steer.mix import Mix
from tiny import random_steer, tiny_lm

PROMPTS = ["a", "It was", "the longest of all of them, by far", "what"]
SAMPLING = [SamplingConfig(temperature=0), SamplingConfig(0.9), SamplingConfig(1.0, 5, 0.7)]


def orders_of(lm, steers, count, **options):
    """Orders of many lengths, strengths and ways to draw."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    return prompts, [
        Request(
            lm.encode([prompt])[0],
            steers=steers if i % 3 else {},
            strengths={name: i / 10 - k for k, name in enumerate(steers)} if i % 3 else {},
            sampling=SAMPLING[i % len(SAMPLING)],
            max_new_tokens=3 + 5 * i % 17,
            seed=i,
            **options,
        )
        for i, prompt in enumerate(prompts)
    ]


def alone(lm, prompt, order):
    """The same through ``generate``."""
    (found,) = generate(
        lm,
        [prompt],
        order.steers,
        [order.strengths],
        GenerationConfig(1, order.max_new_tokens, order.sampling, order.seed),
    )
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mamba"])
@pytest.mark.parametrize("limits", [{}, {"rows": 3}, {"tokens": 90}], ids=["all at once", "few rows", "few tokens"])
def test_rows_that_share_steps_write_what_each_writes_alone(engines, family, limits, monkeypatch):
    lm = tiny_lm(family)
    monkeypatch.setattr("lmsteer.serving.engine.engine.SPARE", 0)  # so that few tokens also send rows back to wait
    steers = {"one": random_steer(lm, "multiply", seed=1), "two": random_steer(lm, "offset", seed=2)}
    engine = engines(lm, **limits)
    prompts, orders = orders_of(lm, steers, 14)
    found = answers(engine, orders)
    engine.close()
    for prompt, order, choice in zip(prompts, orders, found, strict=True):
        expected = alone(lm, prompt, order)
        assert (choice.text, choice.tokens) == (expected.text, expected.tokens)
        assert choice.steered == (choice.tokens if order.steers else 0)
        assert choice.finish in (["stop"] if choice.tokens < order.max_new_tokens else ["length", "stop"])


def test_rows_are_sent_back_when_all_together_outgrow_the_tokens(llama, engines, monkeypatch):
    monkeypatch.setattr("lmsteer.serving.engine.engine.SPARE", 0)
    engine = engines(llama, tokens=60)
    sent_back = []
    send_back = engine._work.send_back

    def noted():
        row = send_back()
        sent_back.append(row.left)
        return row

    monkeypatch.setattr(engine._work, "send_back", noted)
    greedy = Request([5, 6, 7], sampling=SamplingConfig(temperature=0), max_new_tokens=40)
    first, second = answers(engine, [greedy, greedy])
    assert first.text == second.text
    assert max(sent_back) > 0


def test_a_row_that_is_cancelled_leaves_and_tells_no_more(endless, engines):
    engine, told, came = engines(endless), [], Event()

    def tell(_, piece):
        told.append(piece)
        came.set()

    (row,) = engine.submit([Request([5, 6], max_new_tokens=30_000)], tell)
    assert came.wait(30)
    row.cancel()
    answers(engine, [Request([5, 6], max_new_tokens=3)])  # a step or more later
    assert engine.running == 0
    assert told[-1].finish is None
    assert told[-1].tokens < 30_000


def test_what_waits_beyond_the_limit_is_told_to_come_again(endless, engines):
    engine = engines(endless, rows=1, waiting=2)
    long = Request([5, 6], max_new_tokens=30_000)
    rows = engine.submit([long] * 3, lambda *_: None)
    with pytest.raises(BusyError, match="waiting"):
        engine.submit([long], lambda *_: None)
    for row in rows:
        row.cancel()
    assert answers(engine, [Request([5], max_new_tokens=2)])[0].tokens


def test_a_row_that_finds_no_place_in_time_is_told_so(endless, engines):
    engine = engines(endless, rows=1)
    (first,) = engine.submit([Request([5, 6], max_new_tokens=30_000)], lambda *_: None)
    (late,) = answers(engine, [Request([5], seconds=0.01)])
    assert (late.finish, late.tokens) == ("timeout", 0)
    first.cancel()


def test_a_row_that_was_sent_back_keeps_its_text_when_its_time_is_over(endless, engines, monkeypatch):
    monkeypatch.setattr("lmsteer.serving.engine.engine.SPARE", 0)
    engine, written = engines(endless, tokens=40), Event()
    orders = [Request([5, 6, 7], max_new_tokens=30, seconds=seconds) for seconds in (60, 0.05)]
    step = engine._work.step
    monkeypatch.setattr(engine._work, "step", lambda: (written.wait(0.01), step()))
    first, second = answers(engine, orders)
    assert first.finish == "length"
    assert second.finish == "timeout"
    assert 0 < second.tokens < 30


def test_a_row_ends_when_its_time_is_over(endless, engines):
    (choice,) = answers(engines(endless), [Request([5, 6], max_new_tokens=30_000, seconds=0.3)])
    assert choice.finish == "timeout"
    assert 0 < choice.tokens < 30_000


def test_rows_of_more_tokens_than_there_are_are_refused(llama, engines):
    with pytest.raises(LMSteerError, match="more than the 100"):
        engines(llama, tokens=100).submit([Request([5], max_new_tokens=100)], lambda *_: None)


def test_a_closed_engine_tells_all_rows_and_takes_no_more(endless, engines):
    engine, told = engines(endless, rows=1), []
    engine.submit([Request([5, 6], max_new_tokens=30_000)] * 2, lambda place, piece: told.append((place, piece.error)))
    engine.close()
    assert {place for place, error in told if isinstance(error, StoppedError)} == {0, 1}
    with pytest.raises(StoppedError):
        engine.submit([Request([5])], lambda *_: None)
    with pytest.raises(StoppedError):
        engine.call(lambda: None)


def test_a_step_that_fails_takes_its_rows_with_it_and_those_that_wait_are_served(llama, engines, monkeypatch):
    engine = engines(llama, rows=2)

    def fail(_):
        raise MemoryError("no memory")

    monkeypatch.setattr(engine._work._batch, "step", fail)
    one, two, three = answers(engine, [Request([5, 6])] * 3)
    assert isinstance(one, StepError)
    assert isinstance(two, StepError)
    assert "no memory" in str(one)
    assert three.tokens


def test_a_row_without_numbers_ends_alone(llama, engines):
    steer = random_steer(llama)
    plain = Request([5, 6, 7], sampling=SamplingConfig(temperature=0), max_new_tokens=8)
    wild = Request([5, 6, 7], {"one": steer}, {"one": 3e38}, SamplingConfig(0.9), max_new_tokens=8)
    engine = engines(llama)
    first, broken, last = answers(engine, [plain, wild, plain])
    engine.close()
    assert "turn the dial down" in str(broken)
    assert first.text == last.text == alone(llama, llama.tokenizer.decode([5, 6, 7]), plain).text


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(1.0, 0, 1e-40), SamplingConfig(1e-300), SamplingConfig(1e-300, 1, 1e-3)]
)
def test_ways_to_draw_at_the_end_of_the_numbers_take_the_likeliest(llama, engines, sampling):
    greedy = Request([5, 6, 7], sampling=SamplingConfig(temperature=0), max_new_tokens=8)
    odd = Request([5, 6, 7], sampling=sampling, max_new_tokens=8)
    first, second = answers(engines(llama), [greedy, odd])
    assert first.text == second.text


def test_more_rows_than_can_ever_be_taken_are_refused_for_good(llama, engines):
    with pytest.raises(LMSteerError, match="more than can be written") as refused:
        engines(llama, rows=1, waiting=2).submit([Request([5])] * 4, lambda *_: None)
    assert not isinstance(refused.value, BusyError)


def test_what_waits_to_be_done_when_the_engine_closes_is_told(endless, engines):
    engine, entered, go = engines(endless, waiting=1), Event(), Event()
    running = engine.call(lambda: (entered.set(), go.wait(30)))
    assert entered.wait(30)
    waiting = engine.call(lambda: 1)
    with pytest.raises(BusyError):
        engine.call(lambda: 2)
    closing = Thread(target=engine.close)
    closing.start()
    go.set()
    closing.join(30)
    assert running.result(30)
    with pytest.raises(StoppedError):
        waiting.result(30)


def test_work_between_steps_finds_the_model_unsteered(endless, engines):
    engine, steer = engines(endless), random_steer(endless)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = endless.model(input_ids=ids).logits
    came = Event()
    order = Request([5, 6], {"one": steer}, {"one": 3.0}, max_new_tokens=2_000)
    (row,) = engine.submit([order], lambda *_: came.set())
    assert came.wait(30)
    found = engine.call(lambda: endless.model(input_ids=ids).logits).result(30)
    assert torch.equal(found, expected)
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(30)
    row.cancel()


def test_likelihoods_are_those_under_the_steers(llama, engines):
    steer = random_steer(llama)
    order = Request([5, 6, 7], {"one": steer}, {"one": 2.0}, SamplingConfig(temperature=0), max_new_tokens=4, top=3)
    engine = engines(llama)
    (choice,) = answers(engine, [order])
    engine.close()
    text = [*order.ids, *(chosen.token for chosen in choice.chosen)]
    with llama.steered(Mix({"one": steer}, {"one": 2.0})), torch.inference_mode():
        log_p = llama.model(input_ids=torch.tensor([text])).logits[0, 2:-1].log_softmax(-1)
    for chosen, line in zip(choice.chosen, log_p, strict=True):
        values, ids = line.topk(3)
        assert list(chosen.top) == ids.tolist()
        assert list(chosen.top.values()) == pytest.approx(values.tolist(), abs=1e-5)
        assert chosen.log_p == pytest.approx(float(values[0]), abs=1e-5)
