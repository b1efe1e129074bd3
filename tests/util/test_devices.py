"""The accelerator of a process."""

from __future__ import annotations

import torch

from lmsteer.util.devices import accelerator


def test_a_machine_without_an_accelerator_has_none(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator() is None


def test_each_process_of_a_launch_has_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for kind in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda kind=kind: torch.device(kind))
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        assert accelerator() == torch.device(kind, 0)
        monkeypatch.setenv("LOCAL_RANK", "3")
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
        assert accelerator() == torch.device(kind, 3)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)  # the launcher hides the other three
        assert accelerator() == torch.device(kind, 0)
