"""Measures of style as scorers: their scores are numbers in the measure's own unit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from lmsteer.evaluation import measures
from lmsteer.evaluation.measures.counts import PHRASES
from lmsteer.evaluation.scorers.base import ScorerMetrics


class Measured:
    """A measure of ``MEASURES`` as a scorer.

    Args:
        name: name of the measure.
    """

    is_probability = False
    metrics: tuple[ScorerMetrics, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = _fingerprint()
        self._measure = measures.MEASURES[name]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The number of each text."""
        return [float(self._measure.of(text)) for text in texts]


def _fingerprint() -> str:
    """A fingerprint of how measures count, and of their lists."""
    sources = [files(measures) / name for name in ("counts.py", "named.py")]
    return hashlib.sha256(b"".join(source.read_bytes() for source in (*sources, PHRASES))).hexdigest()[:32]
