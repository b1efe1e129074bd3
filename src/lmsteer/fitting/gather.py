"""Statistics of a stream of labelled texts, in memory that does not grow with their number.

A fit holds all of its texts in memory: it sorts them by length, reads each once and can read them again. Of a stream
some rows are in memory at a time, a window: texts are sorted by length within it, and a text that occurs in two windows
counts twice. What comes out are statistics, which ``fit`` solves like any others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.errors import DataError, StatisticsError
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

# Rows of a window: enough that batches are of texts of like length, and few, since a window that is stopped is lost.
WINDOW = 512
Window = Sequence[LabelledText]


def gather(
    lm: LM,
    windows: Iterable[Window],
    out: str | Path,
    *,
    max_tokens: int | None = None,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Statistics:
    """Gather statistics of a stream of texts, and save them.

    They are saved from time to time, and whatever stops the stream: always those of whole windows.

    Args:
        lm: the frozen model.
        windows: the texts, some at a time, as ``LabelledSource.windows`` gives them.
        out: the folder of the statistics, for ``FitConfig.statistics``.
        max_tokens: longer texts are cut to this many tokens; None cuts them to the model's context.
        resume: whether to continue with the first window that is not in the statistics of the folder. The stream has to
            give the same texts again; those that are in the statistics are compared, and not read by the model.
        progress: reports the texts.

    Raises:
        DataError: the stream has no texts, or some that cannot be read.
        StatisticsError: the folder holds something else, statistics that are not to be resumed, or statistics of
            another stream, model or ``max_tokens``.
        InterruptedWorkError: the user pressed Ctrl-C; the statistics of whole windows are kept.
        ModelError: the weights of the model are split over processes.
    """
    lm.check_in_one_process("a stream of texts")
    folder, stream = Path(out), iter(windows)
    check_statistics_target(folder)
    work = _Stream(lm, max_tokens, folder)
    if (folder / RECORD_FILE).exists():
        if not resume:
            raise StatisticsError(f"{folder} holds statistics already: resume them, remove them or choose another one.")
        work.restore(stream)
    saves = Checkpointer(work.save)
    with (
        resumable(lambda: kept_in(folder, "The statistics so far are")),
        progress("reading a stream of texts", 0, work.statistics.texts) as step,
    ):
        try:
            while (window := next(stream, None)) is not None:  # Ctrl-C is not deferred: a stream may hang
                with deferred_sigint() as check:
                    work.add(window, step, check)
                saves.step()
        finally:
            work.save()
    if not work.statistics.texts:
        raise DataError("the stream has no texts that can be read.")
    return work.statistics


class _Stream:
    """A stream in progress: statistics of whole windows, and which these are.

    Args:
        lm: the model.
        max_tokens: as in ``gather``.
        folder: where the statistics are saved.
    """

    def __init__(self, lm: LM, max_tokens: int | None, folder: Path) -> None:
        self._lm, self._max_tokens, self._folder = lm, max_tokens, folder
        self._windows, self._saved, self._digest = 0, 0, hashlib.sha256()
        self.statistics = Statistics.empty(lm)

    def add(self, window: Window, step: Callable[[int, str], None], check: Callable[[], None]) -> None:
        """Add the texts of the next window; if that fails, the statistics have none of them.

        Args:
            window: the texts.
            step: reports the texts of a batch.
            check: lets Ctrl-C through.
        """
        limit = self._max_tokens or self._lm.max_length
        texts, ids = encode_readable(self._lm, window, limit, may_be_none=True)
        states = HiddenStates(self._lm, ids)

        def after_batch(number: int, tokens: int) -> None:
            step(len(states.batches[number - 1]), "")
            check()

        own = gather_statistics(states, texts, Statistics.empty(self._lm), after_batch=after_batch)
        self.statistics = self.statistics.merge(own)
        self._pass(window)

    def save(self) -> None:
        """Save the statistics if there is anything new in them."""
        if self._windows > self._saved:
            self.statistics.save(self._folder, stream=self._record())
            self._saved = self._windows

    def restore(self, stream: Iterator[Window]) -> None:
        """Take the statistics of the folder, and the windows that are in them from the stream.

        Raises:
            StatisticsError: they are of something else.
        """
        statistics, record = load_statistics(self._folder)
        statistics.provenance.check_base(self._lm)
        kept = record.get("stream", {})
        for window in islice(stream, kept.get("windows", 0)):
            self._pass(window)
        if different := differing_settings(self._record(), kept):
            raise StatisticsError(
                f"the statistics in {self._folder} are of another stream: its {', '.join(different)} differ. Give the "
                "same texts in the same order, or choose another folder."
            )
        self.statistics, self._saved = statistics.to(float64_device(self._lm.head.device)), self._windows

    def _pass(self, window: Window) -> None:
        self._windows += 1
        self._digest.update(f"{texts_fingerprint(window):x}".encode())

    def _record(self) -> dict[str, Any]:
        return {"windows": self._windows, "texts": self._digest.hexdigest(), "max_tokens": self._max_tokens}
