"""The processes of a launch have disjoint shares, and are counted whatever the accelerator is."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmsteer.util import devices
from lmsteer.util.distributed import Processes


@pytest.fixture
def states(monkeypatch):
    """Stands in for accelerate; holds what it was asked for."""
    asked = []

    def partial_state(cpu, timeout):
        asked.append(cpu)
        return SimpleNamespace(
            process_index=1,
            num_processes=2,
            wait_for_everyone=lambda: asked.append("wait"),
            main_process_first=lambda: nullcontext(asked.append("first")),
        )

    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=partial_state))
    return asked


@pytest.mark.parametrize(("device", "cpu"), [(None, True), ("mps", True), ("cuda:1", False), ("xpu:0", False)])
def test_the_backend_follows_the_accelerator(states, monkeypatch, device, cpu):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(devices, "accelerator", lambda: device and torch.device(device))
    assert Processes.here() == Processes(1, 2)
    assert states == [cpu]


def test_one_process_asks_nobody(states, monkeypatch):
    for size in ("", "1"):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert Processes.here() == Processes()
    Processes().wait_for_everyone()
    with Processes().main_process_first():
        pass
    assert states == []


def test_several_processes_wait_for_each_other(states, monkeypatch):
    monkeypatch.setattr(devices, "accelerator", lambda: None)
    Processes(1, 2).wait_for_everyone()
    with Processes(1, 2).main_process_first():
        pass
    assert states == [True, "wait", True, "first"]


def test_shares_and_folders_make_a_whole():
    processes = [Processes(index, 3) for index in range(3)]
    shares = [list(each.share(range(8))) for each in processes]
    assert sorted(item for share in shares for item in share) == list(range(8))
    parts = processes[1].parts(Path("a/s.partial"), "t")
    assert [folder.name for folder, _ in parts] == ["s.partial-0", "s.partial-1", "s.partial-2"]
    assert [share for _, share in parts] == ["1 of 3 of t", "2 of 3 of t", "3 of 3 of t"]
    assert Processes().parts(Path("s.partial"), "t") == [(Path("s.partial"), "")]
    assert [each.is_main_process for each in processes] == [True, False, False]
