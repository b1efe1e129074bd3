"""What both methods of fitting share: the texts of a fit, the folder that keeps its state, and its reports."""

from __future__ import annotations

import hashlib
import shutil
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_readable, ids_digest
from lmsteer.reading.encoded_text import EncodedText
from lmsteer.reading.splits import held_out_of
from lmsteer.util.distributed import Processes
from lmsteer.util.progress import Progress
from lmsteer.util.run import Run, kept_in, resumable

# An interrupted fit loses at most so many seconds of work.
_SAVE_EVERY = 60.0
# Seconds between two reports on the held-out texts; more where a report takes more than one part in so many of them.
_REPORT_EVERY = 10.0
_REPORT_SHARE = 20


@dataclass
class FitRun:
    """A fit in progress.

    The texts and their ids are held in memory as a whole; their hidden states are not. Of several processes, each has
    all texts and puts a share of them through the model.

    Attributes:
        lm: the frozen model.
        labelled: the labelled texts of all processes.
        folder: the folder that the state of an interrupted fit is kept in; of several processes, each has its own.
        max_tokens: longer texts are cut to this many tokens; None cuts none.
        resume: whether to continue from the state in ``folder``, if there is one.
        cache_activations: whether to keep hidden states on disk for the next fit.
        progress: reports how far the fit is.
        processes: the processes that share the texts.
    """

    lm: LM
    labelled: Sequence[LabelledText]
    folder: Path
    max_tokens: int | None
    resume: bool
    cache_activations: bool
    progress: Progress
    processes: Processes = field(default_factory=Processes)

    @cached_property
    def parts(self) -> list[tuple[Path, str]]:
        """For each process, the folder of its state, and which share of which texts it works on, in words."""
        return self.processes.parts(self.folder, f"{texts_fingerprint(self.labelled):x}")

    @property
    def partial(self) -> Path:
        """The folder that the state of this process is kept in."""
        return self.parts[self.processes.index][0]

    @property
    def share(self) -> str:
        """Which share of which texts this process works on, in words; empty if there is no other one."""
        return self.parts[self.processes.index][1]

    @cached_property
    def _readable(self) -> tuple[list[LabelledText], list[EncodedText]]:
        """The texts of all processes that have a token to predict, each once, and their ids."""
        return encode_readable(self.lm, self.labelled, self.max_tokens)

    @cached_property
    def texts(self) -> Sequence[LabelledText]:
        """Those of this process."""
        return self.processes.share(self._readable[0])

    @cached_property
    def ids(self) -> Sequence[EncodedText]:
        """The ids of the texts of this process."""
        return self.processes.share(self._readable[1])

    @cached_property
    def held_out(self) -> list[tuple[LabelledText, EncodedText]]:
        """The held-out texts of all processes and their ids, in order of digest."""
        texts, ids = self._readable
        return [(texts[i], ids[i]) for i in held_out_of(texts, ids)]

    @cached_property
    def states(self) -> HiddenStates:
        """The hidden states and residuals of those texts."""
        folder = open_activation_cache(self.lm, self.ids) if self.cache_activations else None
        return HiddenStates(self.lm, self.ids, folder)

    def configuration(self, settings: Mapping[str, Any] | None = None) -> Run:
        """What must be the same for an interrupted fit to be resumed: model, ids, labels in their order, settings."""
        labels = [text.label for text in self.texts]
        config = {
            "model": self.lm.fingerprint,
            "set_of_texts": ids_digest(self.ids),
            "set_of_labels": hashlib.sha256(array("d", labels).tobytes()).hexdigest(),
            "share": self.share,
            **(settings or {}),
        }
        return Run(self.partial, config, "an interrupted fit")

    @property
    def has_state(self) -> bool:
        """Whether there is an interrupted fit to resume."""
        return self.resume and self.partial.exists()

    @property
    def site_folders(self) -> list[Path]:
        """For each process, the folder that its sums at sites inside the model are kept in."""
        return [partial.with_name(f"{partial.name}.sites") for partial, _ in self.parts]

    @property
    def sites_partial(self) -> Path:
        """The folder that the sums of this process at sites inside the model are kept in."""
        return self.site_folders[self.processes.index]

    def clear(self) -> None:
        """Remove what this process keeps of the run."""
        for folder in (self.partial, self.sites_partial):
            shutil.rmtree(folder, ignore_errors=True)

    def clear_all(self) -> None:
        """Remove what all processes keep of the run."""
        for folder in (*(partial for partial, _ in self.parts), *self.site_folders):
            shutil.rmtree(folder, ignore_errors=True)

    def resumable(self, kept: str) -> AbstractContextManager[None]:
        """Turn Ctrl-C within a ``with`` block into a message; ``kept`` says what is kept, as "The statistics are"."""
        return resumable(lambda: self.kept_in(self.partial, kept))

    def kept_in(self, folder: Path, kept: str) -> str:
        """What is kept in a folder when the fit is stopped, and how to continue; ``kept`` as in ``resumable``.

        A fit on weights that are split over processes begins anew, so nothing is kept of it.
        """
        if self.lm.is_split:
            self.clear()
            return "Nothing is kept: a fit on weights that are split over processes begins anew."
        return kept_in(folder, kept)


class Checkpointer:
    """Saves the state of a fit from time to time, and whenever it is asked to.

    Args:
        save: writes the state.
        every: the least time between two saves, in seconds.
    """

    def __init__(self, save: Callable[[], None], every: float = _SAVE_EVERY) -> None:
        self.save = save
        self._every, self._last = every, time.monotonic()

    def step(self) -> None:
        """Save the state if that is due."""
        if time.monotonic() - self._last > self._every:
            self.save()
            self._last = time.monotonic()


class HeldOutReporter:
    """Describes how well a fit does on the held-out texts so far, from time to time.

    Args:
        describe: measures it and says it in a few words.
        every: the least time between two measurements by ``message``, in seconds. It grows to twenty times what the
            slowest one took: the model is what a fit's time is for.
    """

    def __init__(self, describe: Callable[[], str], every: float = _REPORT_EVERY) -> None:
        self._describe, self._every, self._last = describe, every, time.monotonic()
        self.latest = ""

    def message(self) -> str:
        """The latest description, renewed if that is due."""
        if time.monotonic() - self._last > self._every:
            self.renew()
        return self.latest

    def renew(self) -> None:
        """Measure and describe now."""
        started = time.monotonic()
        self.latest, self._last = self._describe(), time.monotonic()
        self._every = max(self._every, _REPORT_SHARE * (self._last - started))
