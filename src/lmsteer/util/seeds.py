"""Seeds of random streams, made of several parts, the same on every machine and in every version of Python."""

from __future__ import annotations

import hashlib
import json


def stable_seed(*parts: int | str | float) -> int:
    """A seed from 0 to 2⁶³ - 1, from the SHA-256 of its parts: ``stable_seed(seed, prompt, sample)``.

    Python's own ``hash`` will not do: it gives -1 and -2 one hash, and need not stay the same between versions.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
