"""Return free memory to the system.

When large tensors come and go and small ones between them stay, glibc's heap is left with holes that the next large
tensor does not fit into, and a long pass would take more and more memory (docs/log.md, "Memory").
"""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Return the free pages of the heap to the system, in about 10 ms; without glibc this does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
