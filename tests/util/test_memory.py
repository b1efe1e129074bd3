"""Memory that is free goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lmsteer.util import memory
from lmsteer.util.memory import trim_heap

# In a process of its own, whose heap has no holes yet that the small tensors could go to.
_HOLES = """
import psutil, torch
from lmsteer.util.memory import trim_heap

tensors = [torch.ones(size) for _ in range(2000) for size in (25_000, 1_000)]
kept = tensors[1::2]
tensors.clear()
before = psutil.Process().memory_info().rss
trim_heap()
print(len(kept), (before - psutil.Process().memory_info().rss) / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such call")
def test_holes_in_the_heap_are_given_back():
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    kept, megabytes = done.stdout.split()
    assert int(kept) == 2000
    assert float(megabytes) > 100  # of 200 that were freed


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("looked for a C library"))
    trim_heap()
