"""The gists and baselines that requests may name, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmsteer.model.kv_cache import NOTHING_BEFORE, Start
from lmsteer.model.lm import LM
from lmsteer.serving.starts.baselines import BaselineRegistry
from lmsteer.serving.starts.gists import GistRegistry
from lmsteer.serving.starts.saved import usable


class NamedStarts:
    """Gists and baselines by name.

    Args:
        lm: the model.
        gists: folders of gists.
        baselines: folders of baselines.

    Attributes:
        refusals: why some of them cannot be served; a sentence for each.

    Raises:
        LMSteerError: as those of ``GistRegistry`` and ``BaselineRegistry``.
    """

    def __init__(self, lm: LM, gists: Sequence[Path] = (), baselines: Sequence[Path] = ()) -> None:
        self.gists, self.baselines = GistRegistry(lm, gists), BaselineRegistry(lm, baselines)
        self.refusals = [*self.gists.refusals, *self.baselines.refusals]

    def names(self) -> dict[str, list[str]]:
        """The names of all gists and baselines that can be read now."""
        gists, _ = usable(self.gists.names(), self.gists.find)
        baselines, _ = usable(self.baselines.names(), self.baselines.find)
        return {"gists": [*gists], "baselines": [*baselines]}

    def find(self, gist: str | None = None, baseline: str | None = None) -> Start:
        """Where rows start before their own tokens: after a gist, or under a baseline.

        Args:
            gist: the name of a gist, or None.
            baseline: the name of a baseline, with a strength or without, or None.

        Raises:
            LMSteerError: there is none of that name, or it cannot be served.
        """
        if gist is not None:
            return self.gists.find(gist).start
        return NOTHING_BEFORE if baseline is None else self.baselines.start(baseline)
