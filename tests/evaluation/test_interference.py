"""Interference: effects alone and in the mix, by any reader of the texts."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import DataError
from lmsteer.evaluation.interference import interference, steer_evidence
from lmsteer.evaluation.protocol import Protocol
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.steer.mix import Mix
from tiny import random_steer

PROMPTS = ["abc", "The end", "x"]


@pytest.fixture(scope="module")
def mix(llama):
    steers = {name: random_steer(llama, seed=k, name=name) for k, name in enumerate(("one", "two"))}
    return Mix(steers, {"one": 2.0, "two": -1.0})


def test_effects_are_differences_of_mean_readings(llama, mix):
    def length(texts):
        return [float(len(text)) for text in texts]

    def vowels(texts):
        return [float(sum(letter in "aeiou" for letter in text)) for text in texts]

    found = interference(llama, mix, PROMPTS, readers={"one": length, "two": vowels}, protocol=Protocol(3, 8))
    settings = [
        {"one": 0.0, "two": 0.0},
        {"one": 2.0, "two": 0.0},
        {"one": 0.0, "two": -1.0},
        {"one": 2.0, "two": -1.0},
    ]
    means = []
    for setting in settings:
        rows = list(generate(llama, PROMPTS, mix.steers, [setting], GenerationConfig(3, 8)))
        means.append([sum(read([row.text for row in rows])) / len(rows) for read in (length, vowels)])
    means = torch.tensor(means, dtype=torch.float64)
    torch.testing.assert_close(found.alone, means[1:3] - means[0])
    torch.testing.assert_close(found.mixed, means[3] - means[0])
    torch.testing.assert_close(found.kept, (means[3] - means[0]) / (means[1:3] - means[0]).diagonal())
    assert found.num_texts == 9
    texts = [
        row.text for row in generate(llama, PROMPTS, mix.steers, [settings[0], settings[3]], GenerationConfig(3, 8))
    ]
    both = torch.tensor(length(texts)).reshape(len(PROMPTS), 2, 3).mean(2)
    effects = both[:, 1] - both[:, 0]
    assert float(found.standard_errors[0]) == pytest.approx(float(effects.std() / len(PROMPTS) ** 0.5))


def test_steers_read_their_own_dimension(llama, mix):
    found = interference(llama, mix, PROMPTS, protocol=Protocol(2, 8))
    readers = {
        name: lambda texts, steer=steer: steer_evidence(llama, {"s": steer}, texts)[0].tolist()
        for name, steer in mix.steers.items()
    }
    again = interference(llama, mix, PROMPTS, readers=readers, protocol=Protocol(2, 8))
    assert found.alone.abs().min() > 0
    torch.testing.assert_close(found.alone, again.alone)  # float32: several steers are read in one pass
    torch.testing.assert_close(found.mixed, again.mixed)
    (alone,) = readers["one"](["ab"])
    assert readers["one"](["ab", " ", "ab"]) == [pytest.approx(alone, abs=1e-5), 0.0, pytest.approx(alone, abs=1e-5)]


@pytest.mark.parametrize("strengths", [{"one": 1.0}, {"one": 1.0, "two": 0.0}, {"one": [1.0, 2.0], "two": 1.0}])
def test_other_mixes_are_refused(llama, mix, strengths):
    with pytest.raises(DataError, match="readers for three, which"):
        interference(llama, mix, PROMPTS, readers={"three": lambda texts: [0.0]})
    with pytest.raises(DataError, match="two steers or more"):
        interference(llama, Mix({name: mix.steers[name] for name in strengths}, strengths), PROMPTS)
