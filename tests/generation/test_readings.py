"""Readings of tokens as they are drawn, against a pass over the whole text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.generation.config import NO_LIMITS, GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.generate import generate
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.stream import stream, stream_readings
from lmsteer.model.kv_cache import Start
from lmsteer.reading.likelihood import log_likelihoods, steered_log_likelihoods
from lmsteer.steer.mix import Mix
from tiny import random_steer

# Of a log-likelihood in float32, in nats.
ROUNDING = 1e-4
CONFIG = GenerationConfig(num_samples=2, max_new_tokens=6, readings=True, score=True)


def numbers(readings, name):
    return torch.tensor([getattr(each, name) for each in readings])


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "mamba"])
def test_readings_are_those_of_a_pass_over_the_text(make_lm, family):
    lm, prompts = make_lm(family), ["It was", "The longer one"]
    steers = {
        "style": random_steer(lm),
        "other": random_steer(lm, "add", name="other"),
        "last": random_steer(lm, "offset"),
    }
    strengths = {"style": 2.0, "other": -1.0, "last": 0.0}
    for found in generate(lm, prompts, steers, [strengths], replace(CONFIG, max_new_tokens=4)):
        before, own = lm.encode([found.prompt])[0], [each.token for each in found.readings]
        ids, count = [*before, *own], len(own)
        unsteered = log_likelihoods(lm, [ids])[0][-count:]
        torch.testing.assert_close(numbers(found.readings, "unsteered_log_p"), unsteered, atol=ROUNDING, rtol=0)
        assert float(unsteered.sum()) == pytest.approx(found.log_p, abs=ROUNDING)
        with torch.inference_mode():
            h = lm.before_head(input_ids=torch.tensor([ids]))[0][-count - 1 : -1]
            mix = Mix(steers, strengths)
            log_p0 = torch.log_softmax(lm.head.logits(h), -1)
            raw = mix.steer_logits(lm.head.raw(mix.steer_hidden_states(h)).float())
            log_p = torch.log_softmax(lm.head.post(raw), -1)
        divergences = (log_p.exp() * (log_p - log_p0)).sum(-1)
        drawn = log_p[range(count), own]
        torch.testing.assert_close(numbers(found.readings, "log_p"), drawn, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(numbers(found.readings, "kl"), divergences, atol=ROUNDING, rtol=0)
        assert divergences.min() > 100 * ROUNDING
        low, high = steered_log_likelihoods(lm, [ids], [*steers.values()], [-1.0, 1.0])[0][..., -count:].unbind(1)
        for name, expected in zip(steers, high - low, strict=True):
            evidence = torch.tensor([each.evidence[name] for each in found.readings])
            totals = torch.tensor([each.total_evidence[name] for each in found.readings])
            torch.testing.assert_close(evidence, expected, atol=ROUNDING, rtol=0)
            torch.testing.assert_close(totals, expected.cumsum(0), atol=6 * ROUNDING, rtol=0)


def test_what_is_written_is_the_same_with_readings_and_their_texts_are_the_continuation(llama):
    steers, strengths = {"style": random_steer(llama)}, [{"style": 0.0}, {"style": 3.0}]
    found = [*generate(llama, ["It was", "a"], steers, strengths, CONFIG)]
    plain = [*generate(llama, ["It was", "a"], steers, strengths, replace(CONFIG, readings=False))]
    assert [each.text for each in found] == [each.text for each in plain]
    assert ["".join(token.text for token in each.readings) for each in found] == [each.text for each in found]
    assert [len(each.readings) for each in found] == [each.tokens for each in found]
    assert not any(each.readings for each in plain)
    unsteered = [token for each in found if not each.strengths["style"] for token in each.readings]
    assert all((each.kl, each.scale, each.log_p) == (0, 1, each.unsteered_log_p) for each in unsteered)
    assert any(each.evidence["style"] for each in unsteered)


def test_limits_are_seen_in_the_readings(llama):
    steers, config = {"style": random_steer(llama)}, replace(CONFIG, limits=Limits(0.5, 9, 0.05))
    (found, _) = generate(llama, ["It was"], steers, [{"style": 5.0}], config)
    assert all(each.kl <= 0.05 + ROUNDING for each in found.readings)
    assert {each.scale for each in found.readings} - {1.0}
    # Before implausible tokens are ruled out, nothing else is moved.
    config = replace(CONFIG, limits=Limits(plausible=0.5))
    (found, _) = generate(llama, ["It was"], steers, [{"style": 0.0}], config)
    assert all(each.kl == 0 for each in found.readings)


def test_rows_that_do_not_ask_are_as_they_are(llama):
    steers = {"a": random_steer(llama), "b": random_steer(llama, name="b")}
    ids, logits = llama.encode(["abc"])[0], []
    for asked in (False, True):
        decoder = Decoder(llama)
        rows = [
            Row(Start(ids), row_noise(0, k, 0, 4), {name: steers[name]}, {name: 2.0}, limits=limits)
            for k, (name, limits) in enumerate([("a", NO_LIMITS), ("b", NO_LIMITS), ("a", Limits(kl=0.1))])
        ]
        decoder.admit([rows[0], replace(rows[1], readings=asked), rows[2]])
        logits.append(decoder.step().logits)
        look = decoder.look()
    assert torch.equal(logits[0][0], logits[1][0])
    # The unsteered logits of a row with limits are computed beside those of rows with readings: other products.
    torch.testing.assert_close(*logits)
    assert [len(each) for each in look.readings] == [0, 1, 0]


def test_a_stream_with_readings_is_the_continuation_of_generate(llama):
    steers, strengths = {"style": random_steer(llama)}, {"style": 2.0}
    config = replace(CONFIG, num_samples=1, sampling=SamplingConfig(temperature=0))
    (found,) = generate(llama, ["It was"], steers, [strengths], config)
    tokens = [*stream_readings(llama, "It was", steers, strengths, config)]
    assert tokens == [*found.readings]
    assert "".join(each.text for each in tokens) == "".join(stream(llama, "It was", steers, strengths, config))
    assert tokens[0].to_json()["evidence"] == tokens[0].evidence
