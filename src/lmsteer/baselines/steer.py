"""The steer among its rivals: fitted in closed form, turned like any of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from lmsteer.baselines.baseline import Baseline, BaselineCard, Capabilities
from lmsteer.data.labelled import LabelledText
from lmsteer.fitting.fit import fit
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class SteerBaseline(Baseline):
    """A multiply steer. Stored: its factors."""

    traits: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=True
    )

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """The model steered.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        vocabulary, hidden_size = lm.head.weight.shape
        steer = Steer("multiply", self.tensors, hidden_size, vocabulary, lm.card("steer"))
        with lm.steered(Mix({"steer": steer}, {"steer": list(strengths)})):
            yield


def closed_form(lm: LM, texts: Sequence[LabelledText], card: BaselineCard) -> SteerBaseline:
    """Fit a steer in closed form.

    Raises:
        DataError: too few texts, or texts of one end only.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = fit(lm, texts, name="steer", out=Path(folder) / "steer").steer
    return SteerBaseline(replace(card, fit=dict(found.card.fit)), found.factors)
