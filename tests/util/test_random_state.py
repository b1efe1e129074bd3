"""Random states are restored, and only on the devices that are named."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from lmsteer.util.random_state import forked_random_state


def test_the_state_of_the_cpu_is_restored():
    before = torch.get_rng_state()
    with forked_random_state([torch.device("cpu")]):
        torch.manual_seed(5)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(["cpu"], []), (["cuda:1", "cpu", "cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]), (["mps"], [])],
)
def test_only_the_named_gpus_are_asked(monkeypatch, devices, expected):
    asked = []

    @contextmanager
    def fork(devices=None):
        asked.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    with forked_random_state(map(torch.device, devices)):
        pass
    assert asked == [[torch.device(name) for name in expected]]
