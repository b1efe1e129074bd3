"""A steer among the baselines: the steer itself, with its own card, behind their interface."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lmsteer.baselines.baseline import Capabilities, ForwardBaseline
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import InterruptedWorkError
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.site_names import HEAD_ALONE
from lmsteer.model.lm import LM
from lmsteer.steer.files import save_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import is_weight_name
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

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Steer the model.

        Raises:
            WrongBaseError: another base.
        """
        with lm.steered(Mix({"steer": self.steer}, {"steer": list(strengths)})):
            yield


@dataclass(frozen=True)
class DeepSteerBaseline(SteerBaseline):
    """A steer that acts inside the model."""

    capabilities: ClassVar[Capabilities] = replace(SteerBaseline.capabilities, transferable=False)

    @property
    def method(self) -> str:
        """``lora-steer`` if it acts at linear layers alone, where it is a LoRA; else ``deep-steer``."""
        is_lora = not self.steer.rank and all(map(is_weight_name, self.steer.sites))
        return "lora-steer" if is_lora else "deep-steer"


def steer_baseline(steer: Steer) -> SteerBaseline:
    """A steer as a baseline, by where it acts."""
    return DeepSteerBaseline(steer) if steer.sites else SteerBaseline(steer)


def fit_steer(
    lm: LM,
    texts: Sequence[LabelledText],
    progress: Progress = no_progress,
    *,
    sites: Sequence[str] = HEAD_ALONE,
    rank: int | None = None,
) -> SteerBaseline:
    """Fit a steer in closed form.

    Args:
        lm: the model.
        texts: labelled texts.
        progress: reports the work.
        sites: where it acts, as in ``FitConfig``.
        rank: its rank at each site, likewise.

    Raises:
        DataError: too few texts, or texts of one end only.
        KeyboardInterrupt: the user pressed Ctrl-C; nothing is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            out, config = Path(folder) / "steer", FitConfig(sites=sites, rank=rank)
            fitted = fit(lm, texts, name="steer", out=out, config=config, progress=progress)
        except InterruptedWorkError:  # it names a state to resume from, which goes with the temporary folder
            raise KeyboardInterrupt from None
    return steer_baseline(fitted.steer)
