"""One model, several threads: each gets the text that it would get alone."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import pytest
import torch

from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.stream import stream
from lmsteer.steer.mix import Mix
from lmsteer.steer.thread_guard import Guard
from tiny import random_steer

STRENGTHS = (-2.0, 0.0, 2.0)
SHORT = GenerationConfig(max_new_tokens=4)


def test_three_threads_generate_what_each_would_alone(llama):
    steers = {"s": random_steer(llama)}

    def texts(strength):
        rows = generate(llama, ["ab", "c"], steers, [{"s": strength}], GenerationConfig(max_new_tokens=6, score=True))
        return [(row.text, row.log_p) for row in rows]

    expected = {strength: texts(strength) for strength in STRENGTHS}
    assert len({str(found) for found in expected.values()}) == 3
    work = STRENGTHS * 6
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(texts, work)) == [expected[strength] for strength in work]


def test_hidden_states_are_read_while_others_steer(llama):
    mix, ids = Mix({"s": random_steer(llama)}, {"s": [1.0, 2.0]}), torch.arange(6)[None]
    mask = torch.ones_like(ids)
    expected = llama.hidden_states(ids, mask)

    def read(_):
        return torch.equal(llama.hidden_states(ids, mask), expected)

    def steer(_):
        with llama.steered(mix), torch.inference_mode():
            before = llama.hidden_states(ids, mask)  # unsteered even here, whatever the mix's number of rows
            llama.model(input_ids=ids.expand(2, -1))
            return torch.equal(before, expected)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda k: (read, steer)[k % 2](k), range(30)))


def test_a_second_thread_waits_for_the_first(llama):
    entered, order = Event(), []

    def second():
        entered.set()
        with llama.exclusive_use():
            order.append("second")

    other = Thread(target=second)
    with llama.exclusive_use(), llama.exclusive_use():
        other.start()
        entered.wait()
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_a_thread_that_enters_again_and_again_lets_others_have_their_turn():
    guard, entered, done = Guard(), Event(), Event()

    def again_and_again():
        for _ in range(2000):
            with guard:
                entered.set()
                time.sleep(0.001)
            if done.is_set():
                return

    first = Thread(target=again_and_again)
    first.start()
    entered.wait()
    with guard:
        assert first.is_alive()  # its loop would take seconds
    done.set()
    first.join()


def test_a_wait_that_is_interrupted_gives_its_place_to_the_next(monkeypatch):
    guard, waiting, entered = Guard(), Event(), Event()
    monkeypatch.setattr("lmsteer.steer.thread_guard._WARN_AFTER", 0.0)

    def interrupt(*_, **__):
        waiting.set()
        raise KeyboardInterrupt

    def interrupted():
        with pytest.raises(KeyboardInterrupt), guard:
            pass

    def following():
        with guard:
            entered.set()

    monkeypatch.setattr(warnings, "warn", interrupt)
    with guard:
        thread = Thread(target=interrupted)
        thread.start()
        assert waiting.wait(60)
        thread.join()
        monkeypatch.setattr(warnings, "warn", lambda *_, **__: None)
        next_thread = Thread(target=following)
        next_thread.start()
    next_thread.join()
    assert entered.is_set()


def test_a_block_may_be_left_in_another_thread(llama):
    def pieces():
        with llama.exclusive_use():
            yield

    generator = pieces()
    thread = Thread(target=lambda: next(generator))
    thread.start()
    thread.join()
    generator.close()
    with llama.exclusive_use():
        assert llama.exclusive_use().is_held_here
    assert not llama.exclusive_use().is_held_here


def test_models_have_guards_of_their_own(llama, make_lm):
    with llama.exclusive_use():
        assert not make_lm("mistral").exclusive_use().is_held_here


def test_a_thread_that_waits_for_long_says_for_whom(llama, monkeypatch):
    messages, warned = [], Event()
    monkeypatch.setattr("lmsteer.steer.thread_guard._WARN_AFTER", 0.0)
    monkeypatch.setattr(warnings, "warn", lambda message, *_, **__: (messages.append(message), warned.set()))

    def second():
        with llama.exclusive_use():
            messages.append("entered")

    other = Thread(target=second)
    with llama.exclusive_use():
        other.start()
        assert warned.wait(60)
    other.join()
    assert messages == ["still waiting for MainThread, which uses the same model.", "entered"]


def test_a_stream_and_a_generation_within_a_steered_block_are_steered_by_it(llama):
    mix = Mix({"style": random_steer(llama)}, {"style": 3.0})
    (steered,) = generate(llama, ["ab"], mix.steers, [{"style": 3.0}], SHORT)
    (plain,) = generate(llama, ["ab"], config=SHORT)
    with llama.steered(mix):
        assert "".join(stream(llama, "ab", config=SHORT)) == steered.text != plain.text
        assert next(generate(llama, ["ab"], config=SHORT)).text == steered.text
    assert "".join(stream(llama, "ab", config=SHORT)) == plain.text
