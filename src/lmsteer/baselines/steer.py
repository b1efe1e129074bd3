"""A steer among the baselines: the steer itself, with its own card, behind their interface."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lmsteer.baselines.baseline import Capabilities, ForwardBaseline
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import InterruptedWorkError
from lmsteer.fitting.fit import fit
from lmsteer.model.lm import LM
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


@dataclass(frozen=True)
class SteerBaseline(ForwardBaseline):
    """A steer. Its folder is a steer's folder, which every command reads.

    Attributes:
        steer: the steer.
    """

    steer: Steer
    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=True
    )
    all_rows: ClassVar[str] = "it is a steer, so serve its folder with --steers and name it in steers"

    @property
    def method(self) -> str:
        """Always ``steer``."""
        return "steer"

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The factors."""
        return self.steer.factors

    def check_base(self, lm: LM) -> None:
        """Refuse another base.

        Raises:
            WrongBaseError: the steer's card names another one.
        """
        self.steer.card.check_base(lm)

    def save(self, folder: Path) -> None:
        """Write the steer.

        Raises:
            SteerError: the folder holds something else.
            OutputError: the disk cannot be written.
        """
        save_steer(self.steer, folder)

    @classmethod
    def load(cls, folder: Path) -> SteerBaseline:
        """Read a steer's folder.

        Raises:
            SteerError: there is no steer in it, or a damaged one.
        """
        return cls(load_steer(folder))

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Steer the model.

        Raises:
            WrongBaseError: another base.
        """
        with lm.steered(Mix({"steer": self.steer}, {"steer": list(strengths)})):
            yield


def fit_steer(lm: LM, texts: Sequence[LabelledText], progress: Progress = no_progress) -> SteerBaseline:
    """Fit a steer in closed form.

    Raises:
        DataError: too few texts, or texts of one end only.
        KeyboardInterrupt: the user pressed Ctrl-C; nothing is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            fitted = fit(lm, texts, name="steer", out=Path(folder) / "steer", progress=progress)
        except InterruptedWorkError:  # it names a state to resume from, which goes with the temporary folder
            raise KeyboardInterrupt from None
    return SteerBaseline(fitted.steer)
