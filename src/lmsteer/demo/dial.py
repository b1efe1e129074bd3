"""Dial: a steer of the demo with the text that it gives at several strengths, and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsteer.evaluation.strength_curve import Point
from lmsteer.generation.generate import Continuation
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import size_of


@dataclass(frozen=True)
class Dial:
    """A steer of the demo.

    Attributes:
        steer: the steer.
        folder: the folder that it is saved in.
        seconds: how long it took to make.
        shown: one text for each prompt or request and each strength.
        curve: positive share and perplexity of continuations at each strength.
    """

    steer: Steer
    folder: Path
    seconds: float
    shown: Sequence[Continuation]
    curve: Sequence[Point]

    @property
    def name(self) -> str:
        """The name of the steer's dimension."""
        return self.steer.card.name

    def rows(self) -> dict[str, list[tuple[float, str]]]:
        """The strengths and texts for each prompt or request, in words."""
        rows: dict[str, list[tuple[float, str]]] = {}
        for each in self.shown:
            prompt = each.prompt if isinstance(each.prompt, str) else each.prompt.messages[-1].content
            rows.setdefault(prompt, []).append((size_of(each.strengths[self.name]), " ".join(each.text.split())))
        return rows
