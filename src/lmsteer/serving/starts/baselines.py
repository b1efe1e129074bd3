"""The baselines that requests may name: folders of other methods, for rows that have one each.

A soft prompt stands before a row like a gist; a LoRA or a direction changes the layers of its rows alone. A method that
changes what all rows go through is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lmsteer.baselines.baseline import ADAPTER
from lmsteer.baselines.methods import load_baseline
from lmsteer.errors import DataError, LMSteerError, ModelError
from lmsteer.model.kv_cache import NOTHING_BEFORE, Start
from lmsteer.model.lm import LM
from lmsteer.serving.starts.checks import check_folders
from lmsteer.serving.starts.saved import NAME, Saved, unknown, usable
from lmsteer.steer.card import CARD_FILE

# Where `lmsteer compare` keeps what it has fitted, below the folder of a method.
_FITTED = "fitted"
# Starts of one baseline that are kept, one for each strength.
_STRENGTHS = 16


@dataclass(frozen=True)
class ServedBaseline:
    """A baseline of a folder. Of one that cannot be served nothing is kept in memory.

    Attributes:
        method: its method.
        tokens: number of tokens of the context that it takes.
        bytes: size of its parameters in bytes.
        refusal: why it cannot be served; empty if it can.
        start: where rows under it start, before their own tokens, for a strength.
    """

    method: str
    tokens: int
    bytes: int
    refusal: str = ""
    start: Callable[[float], Start] = lambda _: NOTHING_BEFORE


class BaselineRegistry:
    """The baselines in some folders: a folder each, or those that ``lmsteer compare`` has fitted.

    Its methods may be called from any thread. They read files, so never call them on an event loop.

    Args:
        lm: the model.
        folders: the folders, searched in this order.

    Attributes:
        refusals: why some baselines cannot be read, as far as that is known at the start.

    Raises:
        DataError: a folder is missing, or no baseline of them can be served.
    """

    def __init__(self, lm: LM, folders: Sequence[Path]) -> None:
        check_folders(lm, folders, "--baselines")
        self._lm, self._folders = lm, folders
        self._saved = Saved(self._read)
        found, self.refusals = usable(self.names(), self.find)
        if folders and all(each.refusal for each in found.values()):
            reasons = " ".join([*(each.refusal for each in found.values()), *self.refusals])
            raise DataError(f"no baselines to serve in {', '.join(map(str, folders))}. {reasons}".rstrip())

    def names(self) -> list[str]:
        """The names of all baselines, in alphabetical order."""
        names = {entry.name for folder in self._folders for entry in folder.iterdir() if self._file(entry)}
        return sorted(name for name in names if NAME.fullmatch(name))

    def find(self, name: str) -> ServedBaseline:
        """A baseline by name, as it is saved now.

        Raises:
            DataError: there is no such baseline, it is damaged or belongs to another model, or its adapter is gone.
        """
        files = [self._file(folder / name) for folder in self._folders] if NAME.fullmatch(name) else []
        file = next((file for file in files if file is not None), None)
        if file is None:
            raise unknown("baseline", name, self.names())
        return self._saved.get(file)

    def start(self, notation: str) -> Start:
        """Where rows under a baseline start, before their own tokens.

        Args:
            notation: its name for strength 1, or ``name=strength``.

        Raises:
            DataError: there is no such baseline, or its strength is not a finite number.
            ModelError: the baseline cannot be served.
            SteerError: it does not have this strength.
        """
        name, _, strength = notation.partition("=")
        try:
            number = float(strength) if strength else 1.0
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"the strength of a baseline must be a finite number, not {strength!r}.")
        found = self.find(name.strip())
        if found.refusal:
            raise ModelError(found.refusal)
        return found.start(number)

    def _read(self, file: Path) -> ServedBaseline:
        try:
            baseline = load_baseline(file.parent)
            found = ServedBaseline(baseline.method, baseline.context, baseline.bytes)
            try:
                start = baseline.for_rows(self._lm)
            except ModelError as error:
                return replace(found, refusal=str(error))
        except LMSteerError as error:
            raise DataError(f"the baseline in {file.parent} cannot be served: {error}") from error
        return replace(found, start=lru_cache(_STRENGTHS)(start))

    @staticmethod
    def _file(folder: Path) -> Path | None:
        """The card file of a baseline, by which it is found and its changes are noticed."""
        places = (folder, folder / _FITTED)
        files = [place / name for place in places for name in (ADAPTER.card_file, CARD_FILE)]
        return next((file for file in files if file.exists()), None)
