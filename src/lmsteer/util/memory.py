"""Memory that is free is given back to the system.

Among large tensors that come and go, small ones that stay leave glibc's heap holes that the next large one does not
fit, and a long pass would grow and grow (docs/log.md, "Memory").
"""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give the heap's free pages back, which takes some ten milliseconds; nothing where the C library has no way to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
