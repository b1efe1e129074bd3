"""Memory that is free goes back to the system."""

from __future__ import annotations

import platform

import psutil
import pytest
import torch

from lmsteer import memory
from lmsteer.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such call")
def test_holes_in_the_heap_are_given_back():
    process = psutil.Process()
    # A long-lived tensor behind each large one: freed, the large ones are holes, which the heap keeps.
    tensors = [torch.ones(size) for _ in range(2000) for size in (25_000, 1_000)]
    kept = tensors[1::2]
    tensors.clear()
    before = process.memory_info().rss
    give_back()
    assert all(len(tensor) == 1_000 for tensor in kept)
    assert process.memory_info().rss < before - 100e6  # of 200 MB that were freed


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("looked for a C library"))
    give_back()
