"""What every scorer is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Protocol

# A score that says nothing.
UNDECIDED = 0.5


class Scorer(Protocol):
    """Judges texts on one dimension.

    Attributes:
        name: by which ``scorer`` finds it.
    """

    name: str

    def scores(self, texts: Sequence[str]) -> list[float]:
        """For each text how surely it lies at the +1 end, from 0 to 1; 0.5 is no verdict."""
        ...


def positive_share(scores: Sequence[float]) -> float:
    """Share of scores above one half among those that are verdicts; nan if there are none."""
    above, below = (sum(sign * (score - UNDECIDED) > 0 for score in scores) for sign in (1, -1))
    return above / (above + below) if above + below else float("nan")


def accuracy_of(name: str) -> str:
    """How well a scorer does on labelled test data, in words; empty if nobody has measured it.

    The figures are made by ``python -m benchmarks.scorers``.
    """
    asset = files("lmsteer") / "assets" / "scorers" / "figures.json"
    figures = json.loads(asset.read_text(encoding="utf-8")).get(name, {})
    told = [
        f"right on {f['accuracy']:.1%} of its verdicts on {f['verdicts']} of {f['texts']} texts of {data} "
        f"(area {f['auc']:.3f})"
        for data, f in figures.items()
    ]
    return "; ".join(told)
