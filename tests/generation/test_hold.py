"""Holds: the strengths are those of a plain loop, the reading comes near its level, and nothing is lost on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.errors import SteerError
from lmsteer.generation.config import NO_LIMITS, GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.evidence import token_evidence
from lmsteer.generation.generate import generate
from lmsteer.generation.row import Row, row_noise
from lmsteer.model.kv_cache import Start
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.steer.mix import Mix
from lmsteer.steer.platt import PlattScaling
from lmsteer.steer.strength import Hold, Windowed
from lmsteer.steer.window import ALL, Window
from tiny import random_steer, read_steer

TOKENS = 10
GREEDY = SamplingConfig(temperature=0)


def row_of(lm, steers, hold, text="It was", place=0, sampling=SamplingConfig(1.0), limits=NO_LIMITS, tokens=TOKENS):
    noise = row_noise(0, place, 0, tokens)
    return Row(Start(lm.encode([text])[0]), noise, steers, {"a": hold, "b": 1.0}, sampling, limits)


def steers_of(lm, form="multiply"):
    return {"a": read_steer(lm, form), "b": random_steer(lm, "offset", name="b")}


def plainly(lm, row, window=ALL):
    """The tokens of a greedy row and the evidence of each, by one plain loop over whole texts."""
    hold, card = row.strengths["a"], row.steers["a"].card
    low, high = card.safe_range if hold.most is None else (-hold.most, hold.most)
    wanted = PlattScaling.from_held_out(card.held_out).evidence(hold.level)
    ids, evidence, gains = [*row.start.ids], [], []
    alone, other = Mix({"a": row.steers["a"]}, {"a": 1.0}), Mix({"b": row.steers["b"]}, {"b": 1.0})
    for number in range(TOKENS):
        with torch.inference_mode():
            h = lm.before_head(input_ids=torch.tensor([ids]))[0][-1:]
            z0, z1 = lm.head.raw(h), alone.logit_shift(h, lm.head.weight)
            of_all = token_evidence(lm.head, z0.expand(z0.shape[1], -1), z1, torch.arange(z0.shape[1]))
            up, down = (torch.softmax(lm.head.post(z0 + s * z1), -1)[0] for s in (1, -1))
            gain = float((up - down) @ of_all) / 2
            missing = wanted - sum(evidence)
            strength = missing / (8 * (sum(gains) + gain) / (len(gains) + 1))
            strength = min(high, max(low, strength)) * window.share(number)
            logits = lm.head.post(z0 + strength * z1 + other.logit_shift(h, lm.head.weight))
        ids.append(int(logits.argmax()))
        if window.share(number):
            evidence.append(float(of_all[ids[-1]]))
            gains.append(gain)
    return ids[len(row.start.ids) :], sum(evidence)


@pytest.mark.parametrize(
    ("family", "form", "hold"),
    [
        ("llama", "multiply", Hold(0.9)),
        ("gemma2", "multiply", Hold(0.1, 3.0)),
        ("llama", "add", Hold(0.7, 9.0, Window(3))),
        ("granite", "offset", Hold(0.95, 9.0, Window(0, 8, "rise"))),
        ("mamba", "multiply", Hold(0.8)),
    ],
)
def test_the_strengths_are_those_of_a_plain_loop(make_lm, family, form, hold):
    lm = make_lm(family)
    row = row_of(lm, steers_of(lm, form), hold, sampling=GREEDY)
    decoder = Decoder(lm)
    decoder.admit([row])
    for _ in range(TOKENS):
        decoder.step()
    tokens, evidence = plainly(lm, row, hold.window)
    assert decoder.look().tokens == [tokens]
    found = decoder.sums(0)["a"].tolist()
    assert found[0] == pytest.approx(evidence, abs=1e-3)
    assert found[2] == TOKENS - (3 if hold.window == Window(3) else 1 if hold.window.shape == "rise" else 0)


def test_the_reading_comes_near_its_level_from_both_sides(llama):
    """In the mean over samples; unsteered text is read as .5 or so."""
    steers, samples = {"a": read_steer(llama)}, 24
    platt = PlattScaling.from_held_out(steers["a"].card.held_out)
    for level in (0.2, 0.9):
        decoder, start = Decoder(llama), Start(llama.encode(["It was"])[0])
        noise = [row_noise(0, 0, k, 40) for k in range(samples)]
        decoder.admit([Row(start, own, steers, {"a": Hold(level)}, SamplingConfig(1.0)) for own in noise])
        for _ in range(40):
            decoder.step()
        readings = [platt.probability(float(decoder.sums(k)["a"][0])) for k in range(samples)]
        assert sum(readings) / samples == pytest.approx(level, abs=0.1)


def test_nothing_is_lost_when_rows_come_go_and_continue_later(llama):
    steers = steers_of(llama)
    rows = [
        row_of(llama, steers, Hold(0.9), place=0),
        row_of(llama, steers, Hold(0.3, 2.0), "the longest day", 1, limits=Limits(kl=0.5)),
        row_of(llama, steers, 2.0, "a", 2),
        row_of(llama, steers, Windowed(2.0, Window(4)), "day", 3),
    ]
    alone = []
    for row in rows:
        decoder = Decoder(llama)
        decoder.admit([row])
        for _ in range(TOKENS):
            decoder.step()
        alone += decoder.look().tokens
    decoder = Decoder(llama)
    decoder.admit(rows[1:3])
    for _ in range(4):
        decoder.step()
    first = decoder.look().tokens
    sums = decoder.sums(0)
    decoder.remove(0)
    decoder.admit([rows[0], rows[3]])
    decoder.step()
    second = decoder.look().tokens
    decoder.keep([([place], decoder.pass_over([place])) for place in range(3)])  # as where a step over all rows fails
    second = [own + more for own, more in zip(second, decoder.look().tokens, strict=True)]
    left = rows[1]
    ids = [*left.start.ids, *first[0]]
    decoder.admit([replace(left, start=Start(ids), noise=left.noise[4:], written=first[0], sums=sums)])
    for _ in range(4):
        decoder.step()
    third = decoder.look().tokens
    assert first[1] + second[0] + third[0] == alone[2]
    assert second[1] + third[1] == alone[0][:6]
    assert second[2] + third[2] == alone[3][:6]
    assert first[0] + third[3] == alone[1][:8]
    assert len({*map(tuple, alone)}) == 4


def test_a_hold_without_a_reader_or_a_range_is_refused_by_name(llama):
    plain = random_steer(llama)
    unsafe = replace(plain, card=replace(plain.card, held_out={"slope": 0.2, "offset": 0.0}))
    for steer, message in ((plain, "'style' has no reader"), (unsafe, "'style' has no safe range")):
        with pytest.raises(SteerError, match=message):
            next(generate(llama, ["a"], {"a": steer}, [{"a": Hold(0.8)}], GenerationConfig(max_new_tokens=2)))
    list(generate(llama, ["a"], {"a": unsafe}, [{"a": Hold(0.8, 3.0)}], GenerationConfig(max_new_tokens=2)))


def test_the_evidence_that_is_held_is_that_of_the_likelihoods_of_the_text(llama):
    steers = {"a": read_steer(llama)}
    decoder = Decoder(llama)
    decoder.admit([Row(Start([llama.start_id]), row_noise(0, 0, 0, 8), steers, {"a": Hold(0.9)}, SamplingConfig(1.0))])
    for _ in range(8):
        decoder.step()
    (tokens,) = decoder.look().tokens
    ((down, up),) = steered_log_likelihoods(llama, [[llama.start_id, *tokens]], [steers["a"]], [-1.0, 1.0])[0]
    assert float(decoder.sums(0)["a"][0]) == pytest.approx(float((up - down).sum()), abs=1e-3)
