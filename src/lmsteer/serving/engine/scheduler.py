"""The rows at work: what the model goes on with, a dial for each, and a token more for all of them.

::

    take ──read, in pieces──> rows ──step──> logits ──draw──> a token a row ──tell──> pieces
                               │  └── a dial a row turns the hidden states in front of the head
                               └── leave: ended, cancelled, out of time
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.generation.sampling import draw
from lmsteer.model.lm import LM
from lmsteer.serving.engine.backends import backend_for
from lmsteer.serving.engine.requests import GeneratedSequence, TokenLogprob, chosen_of
from lmsteer.steer.hook import unsteered
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.util.memory import trim_heap

_NOBODY = Mix({}, {})
_TOO_LONG = "the time for an answer was over before the prompt was read: send a shorter one."


class Scheduler:
    """Rows that are being written, all by one thread.

    Args:
        lm: the model. Other threads that use it take turns with this one, step by step.

    Attributes:
        rows: in the order of the batch.
        reading: rows whose prompts are being read.
        most: of them, that the model can take at once; None for any number.
        steps: forward passes so far.

    Raises:
        ModelError: the model does not go on from what it has kept as it would from the text.
    """

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._batch, self.most = backend_for(lm)
        self._mix = _NOBODY
        self.rows: list[GeneratedSequence] = []
        self.reading: list[GeneratedSequence] = []
        self._joining: Iterator[int] = iter(())
        self.steps = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return self._batch.bytes

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((len(row.ids) for row in self.rows), default=0)

    def take(self, new: Sequence[GeneratedSequence]) -> None:
        """Begin to read what rows have so far; none may be being read."""
        self.reading = [*new]
        self._joining = self._batch.join([row.ids for row in new])

    def read(self) -> None:
        """Read a piece more. With the last one the rows join those that are being written."""
        if all(row.cancelled or row.late for row in self.reading):
            for row in self.reading:
                row.expire() if row.cancelled or row.begun else row.fail(LMSteerError(_TOO_LONG))
            self._read_nothing()
            return
        with self.unsteered():
            if not next(self._joining, 0):
                self.rows += self.reading
                self._read_nothing()

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """The model as it is, within a ``with`` block."""
        with unsteered(self._lm.model):
            yield
        self._dial()

    def step(self) -> None:
        """A token more for every row; those leave that have ended."""
        with self._lm.steered(self._mix) as handle:  # step by step, so that other threads may use the model between
            logits = self._batch.step([row.ids[-1] for row in self.rows])
        steered = handle.calls > 0
        self.steps += 1
        self._drop_broken(logits)
        tops = {i: row.order.top for i, row in enumerate(self.rows) if row.order.top is not None}
        log_p = dict(zip(tops, torch.log_softmax(logits[[*tops]].float(), -1), strict=True)) if tops else {}
        ended = []
        for i, (row, token) in enumerate(zip(self.rows, self._drawn(logits), strict=True)):
            chosen: TokenLogprob | None = chosen_of(log_p[i], token, tops[i] or 0) if i in tops else None
            if row.cancelled or not row.take(token, steered and any(row.order.strengths.values()), chosen):
                ended.append(i)
        for i in reversed(ended):
            self._leave(i)
        if ended:
            self._dial()

    def send_back(self) -> GeneratedSequence:
        """Take out the row that came last, as far as it is."""
        last = max(range(len(self.rows)), key=lambda i: self.rows[i].number)
        row = self.rows[last]
        self._leave(last)
        self._dial()
        return row

    def drop_all(self, why: LMSteerError) -> None:
        """Tell all rows that nothing more comes, and begin anew."""
        for row in [*self.rows, *self.reading]:
            row.fail(why)
        self.rows = []
        self._read_nothing()
        self._batch = type(self._batch)(self._lm)  # type: ignore[call-arg]
        self._mix = _NOBODY
        trim_heap()

    def close(self) -> None:
        """Leave the model as it was."""
        self._mix = _NOBODY

    def _read_nothing(self) -> None:
        """Nothing is being read any more, and nothing is kept of it here."""
        self.reading, self._joining = [], iter(())

    def _drop_broken(self, logits: Tensor) -> None:
        """Rows whose strengths have led out of the numbers that there are end, and the others do not notice."""
        broken = (~logits.amax(-1).isfinite()).nonzero().flatten()
        for i in broken.tolist():
            if not self.rows[i].cancelled:
                self.rows[i].fail(SteerError("the logits are no finite numbers any more: turn the dial down."))
                self.rows[i].cancel()
        if len(broken):
            logits.nan_to_num_()  # there is no drawing from them

    def _drawn(self, logits: Tensor) -> list[int]:
        """A token a row; rows that draw alike draw together."""
        drawn = [0] * len(self.rows)
        for sampling in {row.order.sampling for row in self.rows}:
            places = [i for i, row in enumerate(self.rows) if row.order.sampling == sampling]
            u = torch.stack([self.rows[i].u for i in places])
            for i, token in zip(places, draw(logits[places], u, sampling).tolist(), strict=True):
                drawn[i] = token
        return drawn

    def _dial(self) -> None:
        """Set each row's strengths."""
        self._mix = row_by_row([(row.order.steers, row.order.strengths) for row in self.rows])

    def _leave(self, place: int) -> None:
        """The last row takes the place, here as in the batch."""
        self._batch.leave(place)
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
