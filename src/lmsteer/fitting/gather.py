"""Statistics of a stream of labelled texts, in memory that does not grow with their number.

A fit holds all of its texts in memory: it sorts them by length, reads each once and can read them again. Of a stream
some rows are in memory at a time, a window: texts are sorted by length within it, and a text that occurs in two windows
counts twice. What comes out are statistics, which ``fit`` solves like any others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.errors import StatisticsError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.run import Checkpointer
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.fitting.statistics_files import RECORD_FILE, check_statistics_target
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.util.devices import float64_device
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.run import differing_settings, kept_in, resumable

# Rows of a window: enough that batches are of texts of like length.
WINDOW = 4096


def gather(
    lm: LM,
    windows: Iterable[Sequence[LabelledText]],
    out: str | Path,
    *,
    max_tokens: int | None = None,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Statistics:
    """Gather statistics of a stream of texts, and save them.

    Args:
        lm: the frozen model.
        windows: the texts, some at a time, as ``LabelledSource.windows`` gives them.
        out: the folder of the statistics, for ``FitConfig.statistics``.
        max_tokens: longer texts are cut to this many tokens; None cuts none.
        resume: whether to continue with the first window that is not in the statistics of the folder. The stream has to
            give the same texts again; those that are in the statistics are compared, and not read by the model.
        progress: reports the texts.

    Raises:
        DataError: texts that cannot be read, such as ones that are longer than the model's context.
        StatisticsError: the folder holds something else, or statistics of another stream, model or ``max_tokens``.
        InterruptedWorkError: the user pressed Ctrl-C; the statistics so far are kept.
    """
    folder, run = Path(out), _Stream(lm, max_tokens)
    check_statistics_target(folder)
    stream, statistics = iter(windows), Statistics.empty(lm)
    if resume and (folder / RECORD_FILE).exists():
        statistics = run.restored(folder, stream)
    saves = Checkpointer(lambda: run.save(statistics, folder))
    with (
        resumable(lambda: kept_in(folder, "The statistics so far are")),
        progress("reading a stream of texts", 0, statistics.texts) as step,
        deferred_sigint() as check,
    ):
        try:
            for window in stream:
                run.add(window, statistics)
                step(len(window), f"{statistics.counts.tokens:,} tokens")
                saves.step()
                check()
        finally:
            run.save(statistics, folder)
    return statistics


class _Stream:
    """A stream in progress: how many windows are in the statistics, and which.

    Args:
        lm: the model.
        max_tokens: as in ``gather``.
    """

    def __init__(self, lm: LM, max_tokens: int | None) -> None:
        self._lm, self._max_tokens = lm, max_tokens
        self._windows, self._digest = 0, hashlib.sha256()

    def add(self, window: Sequence[LabelledText], statistics: Statistics) -> None:
        """Add the texts of the next window; if that fails, the window is in none of them."""
        texts, ids = encode_readable(self._lm, window, self._max_tokens)
        gather_statistics(HiddenStates(self._lm, ids), texts, statistics)
        self._pass(window)

    def save(self, statistics: Statistics, folder: Path) -> None:
        """Save the statistics, with what they are of."""
        statistics.save(folder, stream=self._record())

    def restored(self, folder: Path, stream: Any) -> Statistics:
        """The statistics in a folder; the windows that are in them are taken from the stream.

        Raises:
            StatisticsError: they are of something else.
        """
        statistics, record = load_statistics(folder)
        statistics.provenance.check_base(self._lm)
        kept = record.get("stream", {})
        for window in islice(stream, kept.get("windows", 0)):
            self._pass(window)
        if different := differing_settings(self._record(), kept):
            raise StatisticsError(
                f"the statistics in {folder} are of another stream: its {', '.join(different)} differ. Give the same "
                "texts in the same order, or choose another folder."
            )
        return statistics.to(float64_device(self._lm.head.device))

    def _pass(self, window: Sequence[LabelledText]) -> None:
        self._windows += 1
        self._digest.update(f"{texts_fingerprint(window):x}".encode())

    def _record(self) -> dict[str, Any]:
        return {"windows": self._windows, "texts": self._digest.hexdigest(), "max_tokens": self._max_tokens}
