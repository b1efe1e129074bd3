"""The accelerator of a process, and what is said of devices that are missing or full."""

from __future__ import annotations

import pytest
import torch

from lmsteer.util.devices import accelerator, device_advice


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


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "Install a torch for that device"),
        (RuntimeError("PyTorch is not linked with support for mps devices"), "leave device_map out"),
        (RuntimeError("CUDA error: invalid device ordinal"), "leave device_map out"),
        (torch.OutOfMemoryError("CUDA out of memory."), "Load the model in bfloat16"),
        (RuntimeError("shapes differ"), None),
        (ValueError("not compiled with"), None),
    ],
)
def test_errors_of_devices_say_what_to_do(error, advice):
    found = device_advice(error)
    assert advice in found if advice else found == ""
