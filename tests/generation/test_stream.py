"""Streaming: the text of generate in pieces, steered while it is read, stopped when it is dropped."""

from __future__ import annotations

import threading

import pytest
import torch

from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.stream import stream
from tiny import FAMILIES, random_steer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_pieces_are_the_text_that_generate_gives(make_lm, family, temperature):
    lm = make_lm(family)
    steers, config = {"style": random_steer(lm)}, GenerationConfig(1, 12, SamplingConfig(temperature=temperature), 3)
    (whole,) = generate(lm, ["The cat"], steers, [{"style": 2.0}], config)
    assert "".join(stream(lm, "The cat", steers, {"style": 2.0}, config)) == whole.text


def test_text_comes_in_pieces(smollm2):
    config = GenerationConfig(max_new_tokens=12)
    pieces = list(stream(smollm2, "The weather this morning", config=config))
    (whole,) = generate(smollm2, ["The weather this morning"], config=config)
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text


def test_a_stream_that_is_dropped_stops_writing_and_steering(smollm2):
    before, threads = smollm2.model(torch.tensor([[1, 2]])).logits, threading.active_count()
    steers = {"style": random_steer(smollm2)}
    pieces = stream(smollm2, "The weather this morning", steers, {"style": 1.0}, GenerationConfig(max_new_tokens=2000))
    next(pieces)
    steps: list[object] = []
    with smollm2.head.module.register_forward_hook(lambda *step: steps.append(step[0])):
        pieces.close()
    assert len(steps) < 100  # of the two thousand tokens asked for; it stops at the next
    assert threading.active_count() == threads
    assert torch.equal(smollm2.model(torch.tensor([[1, 2]])).logits, before)


def test_what_goes_wrong_while_writing_is_raised_where_it_is_read(llama, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(llama.model, "forward", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        list(stream(llama, "The cat"))


def test_bad_input_is_refused_before_anything_is_read(make_lm, llama):
    style = {"style": random_steer(make_lm("qwen3"))}
    for error, *arguments in (
        (DataError, ""),
        (DataError, "x" * 3000),
        (SteerError, "x", style, {"style": float("nan")}),
        (WrongBaseError, "x", style, {"style": 1.0}),
    ):
        with pytest.raises(error):
            stream(llama, *arguments)
