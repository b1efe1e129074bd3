"""Seeds of random streams, made of several parts, the same on every machine and in every version of Python.

Parts are mixed as CPython mixes the hashes of the items of a tuple (xxHash64; Collet, 2012). That is written out here,
because Python does not promise it, and kept, because published results were drawn with it. Unlike with ``hash``, every
integer has a hash of its own (Python gives -1 and -2 the same one, and n and n + 2⁶¹ - 1).
"""

from __future__ import annotations

import hashlib

_PRIME_1, _PRIME_2, _PRIME_5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
_LENGTH_SALT = _PRIME_5 ^ 3527539
_BITS_64 = (1 << 64) - 1
# The largest integer that Python hashes to itself, and one more.
_MODULUS = (1 << 61) - 1


def stable_hash(*parts: int | str | float) -> int:
    """A signed 64-bit hash of some parts, in their order."""
    total = _PRIME_5
    for part in parts:
        total = (total + _item(part) * _PRIME_2) & _BITS_64
        total = (total << 31 | total >> 33) & _BITS_64
        total = total * _PRIME_1 & _BITS_64
    total = (total + (len(parts) ^ _LENGTH_SALT)) & _BITS_64
    return total - (1 << 64) if total >> 63 else total


def stable_seed(*parts: int | str | float) -> int:
    """A seed for ``torch.Generator``, from 0 to 2⁶³ - 1: ``stable_seed(seed, prompt, sample)``."""
    return stable_hash(*parts) & ((1 << 63) - 1)


def derived_seed(*parts: int | str | float) -> int:
    """A seed that is itself a part of further seeds: one for each block of an evaluation, say."""
    value = stable_hash(*parts)
    return value % _MODULUS if value >= 0 else -(-value % _MODULUS)


def _item(part: int | str | float) -> int:
    if isinstance(part, int) and -_MODULUS < part < _MODULUS and part != -1:
        return part & _BITS_64
    digest = hashlib.sha256(f"{type(part).__name__} {part!r}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
