"""The report of a mix: strengths, cosines where steers have matrices, and effects where they were measured."""

from __future__ import annotations

import json

import pytest
import torch

from lmsteer.evaluation.interference import Interference
from lmsteer.evaluation.mix_report import mix_report
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.steer.mix import Mix
from tiny import random_steer


@pytest.fixture
def fisher(llama, cache):
    return fisher_factors(llama)


def test_the_effects_of_a_mix_are_reported_by_name(llama, fisher):
    mix = Mix({"a": random_steer(llama, seed=1), "b": random_steer(llama, seed=2)}, {"a": 2.0, "b": -1.0})
    alone, mixed = torch.tensor([[4.0, 1.0], [0.5, -2.0]]), torch.tensor([3.0, -1.0])
    report = mix_report(mix, fisher, Interference({"a": 2.0, "b": -1.0}, alone, mixed, torch.tensor([0.5, 0.25]), 8))
    record = json.loads(json.dumps(report.to_json()))
    assert record["strengths"] == {"a": 2.0, "b": -1.0}
    assert record["continuations"] == 8
    assert record["effects"]["a"] == {"alone": {"a": 4.0, "b": 1.0}, "mixed": 3.0, "standard_error": 0.5, "kept": 0.75}
    assert record["effects"]["b"]["kept"] == 0.5
    cosines = torch.tensor(record["cosines"])
    torch.testing.assert_close(cosines.diagonal(), torch.ones(2))
    torch.testing.assert_close(cosines, cosines.T)


def test_steers_without_a_matrix_have_no_cosines(llama, fisher):
    report = mix_report(Mix({"shift": random_steer(llama, "add")}, {"shift": 1.0}), fisher)
    assert report.to_json() == {"strengths": {"shift": 1.0}}
