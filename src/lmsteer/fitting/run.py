"""The work of a fit: its texts, as the model reads them, and where an interrupted one is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import InterruptedWorkError
from lmsteer.fitting.activation_cache import HiddenStates, open_store
from lmsteer.model.lm import LM
from lmsteer.reading.rows import readable
from lmsteer.util.progress import Progress


@dataclass
class Work:
    """What a fit works on.

    Attributes:
        lm: the frozen model.
        given: the labelled texts, as they were given.
        partial: folder that an interrupted fit is kept in.
        max_tokens: cut longer texts.
        resume: whether to go on with what is kept.
        store: whether hidden states are kept for the next fit.
        share: which share of which texts these are, where several processes work.
        progress: what to tell of the work.
    """

    lm: LM
    given: Sequence[LabelledText]
    partial: Path
    max_tokens: int | None
    resume: bool
    store: bool
    progress: Progress
    share: str = ""

    @cached_property
    def _readable(self) -> tuple[list[LabelledText], list[list[int]]]:
        return readable(self.lm, self.given, self.max_tokens)

    @property
    def texts(self) -> list[LabelledText]:
        """The texts that a pass reads, each once."""
        return self._readable[0]

    @property
    def ids(self) -> list[list[int]]:
        """Their ids."""
        return self._readable[1]

    @cached_property
    def states(self) -> HiddenStates:
        """Their hidden states and residuals."""
        return HiddenStates(self.lm, self.ids, open_store(self.lm, self.ids) if self.store else None)

    @cached_property
    def plan(self) -> str:
        """What must be the same for an interrupted fit to be gone on with: model, ids and labels in their order."""
        labels = [text.label for text in self.texts]
        content = json.dumps([self.lm.fingerprint, self.ids, labels, self.share])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def resumable(self) -> bool:
        """Whether there is something to go on with."""
        return self.resume and self.partial.exists()

    @contextmanager
    def interruptible(self, what: str) -> Iterator[None]:
        """Turn Ctrl-C into a message that names what is kept and the way on."""
        try:
            yield
        except KeyboardInterrupt:
            raise InterruptedWorkError(
                f"interrupted; {what} kept in {self.partial}. The same command with --resume goes on from there."
            ) from None
