"""The running batch: one decoding step for all sequences, each with its own strengths.

::

    admit ──prefill, in chunks──> running ──step──> logits ──draw──> one token each ──on_chunk──> the client
                                     │  └── the strengths of each row steer the hidden states before the head
                                     └── remove: ended, cancelled, timed out, preempted

A sequence on which any of this fails ends alone (``isolation``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.backends import backend_for
from lmsteer.serving.engine.batch import PREFILL_CHUNK, PromptChunk
from lmsteer.serving.engine.drawing import draw_and_send
from lmsteer.serving.engine.isolation import as_step_error, halves, isolated
from lmsteer.serving.engine.prompts import score_prompts
from lmsteer.serving.engine.requests import GeneratedSequence
from lmsteer.steer.hook import unsteered
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.util.compat import is_out_of_memory
from lmsteer.util.memory import trim_heap

_PROMPT_TOO_SLOW = "the request timed out before its prompt was read: send a shorter prompt."


class Scheduler:
    """The sequences that are prefilled or decoded. One thread calls all methods.

    Args:
        lm: the model. Other threads that use it take turns with this one, step by step.
        prefill_chunk: number of prompt tokens to read between two decoding steps.

    Attributes:
        running: sequences that are decoded, in the order of the batch.
        max_num_seqs: largest number of sequences that the model can decode at once; None for any number.
        steps: number of decoding steps so far.
        preemptions: number of sequences that were preempted so far.

    Raises:
        ModelError: the model's logits from its cache differ from those of the whole text.
    """

    def __init__(self, lm: LM, prefill_chunk: int = PREFILL_CHUNK) -> None:
        self._lm = lm
        self._make_backend, self.max_num_seqs = backend_for(lm, prefill_chunk)
        self._backend = self._make_backend()
        self._mix: Mix | None = None  # of all running sequences; None if it is to be made anew
        self.running: list[GeneratedSequence] = []
        # The prompts of the first group are being read.
        self._groups: deque[Sequence[GeneratedSequence]] = deque()
        self._chunks: Iterator[PromptChunk] = iter(())
        self.steps = 0
        self.preemptions = 0

    def __len__(self) -> int:
        return len(self.running)

    @property
    def prefilling(self) -> list[GeneratedSequence]:
        """Sequences whose prompts are being read."""
        return [*chain.from_iterable(self._groups)]

    @property
    def cache_bytes(self) -> int:
        """Size of the KV cache in bytes."""
        return self._backend.bytes

    @property
    def longest(self) -> int:
        """Length in tokens of the longest running sequence."""
        return max((len(sequence.ids) for sequence in self.running), default=0)

    def admit(self, sequences: Sequence[GeneratedSequence]) -> None:
        """Start to prefill sequences. Call it only while ``prefilling`` is empty."""
        self._replace_group([sequences])

    def prefill(self) -> Sequence[GeneratedSequence]:
        """Read one chunk of the prompts. After the last chunk the sequences join the running ones.

        If that fails, the prompts are read again in halves.

        Returns:
            Sequences that must wait until one of those that run has ended, because memory is short.
        """
        group = self._groups[0]
        if all(sequence.cancelled or sequence.timed_out for sequence in group):
            self._replace_group([])
            for sequence in group:
                if sequence.cancelled or sequence.started:
                    sequence.expire()
                else:
                    sequence.fail(LMSteerError(_PROMPT_TOO_SLOW))
            return ()
        try:
            with self.unsteered():
                chunk = next(self._chunks)
        except BaseException as error:
            if self.running and is_out_of_memory(error):
                self._replace_group([])
                return group
            if len(group) == 1:
                group[0].fail(as_step_error(error))
            self._replace_group(halves(group) if len(group) > 1 else [])
            return ()
        score_prompts(self._lm.head, group, chunk.hidden)
        if not chunk.left:
            self.running += group
            self._mix = None
            self._replace_group([])
            for sequence in group:
                isolated(lambda group: group[0].end_prompt(), [sequence], GeneratedSequence.fail)
            self._drop_ended()
        return ()

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """The model without steers, within a ``with`` block."""
        with unsteered(self._lm.model):
            yield

    def make_room(self) -> bool:
        """Make room for one more token of each running sequence; False if there is no memory for it."""
        try:
            self._backend.make_room()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def step(self) -> None:
        """Decode one token for each running sequence, and remove those that end with it."""
        parts = isolated(self._logits, range(len(self.running)), lambda row, error: self.running[row].fail(error))
        self._backend.advance()
        self.steps += 1
        for rows, (logits, is_steered) in parts:
            draw_and_send([self.running[row] for row in rows], logits, is_steered)
        self._drop_ended()

    def preempt(self) -> GeneratedSequence:
        """Remove the newest sequence, with its text so far, so that it can be admitted again."""
        newest = max(range(len(self.running)), key=lambda i: self.running[i].arrival)
        sequence = self.running[newest]
        self._remove(newest)
        self.preemptions += 1
        return sequence

    def fail_all(self, error: LMSteerError) -> None:
        """End all sequences with an error and start with an empty cache."""
        for sequence in [*self.running, *self.prefilling]:
            sequence.fail(error)
        self.running = []
        self._groups.clear()
        self._chunks = iter(())
        self._backend, self._mix = self._make_backend(), None
        trim_heap()

    def _replace_group(self, groups: Sequence[Sequence[GeneratedSequence]]) -> None:
        """Put other groups in the place of the one whose prompts are being read, and start with the first of them."""
        if self._groups:
            self._groups.popleft()
        self._groups.extendleft(reversed(groups))
        self._chunks = iter(())  # so that what was read is freed
        if self._groups:
            for sequence in self._groups[0]:
                sequence.begin_prompt()
            self._chunks = self._backend.prefill([sequence.ids for sequence in self._groups[0]])

    def _logits(self, rows: Sequence[int]) -> tuple[Tensor, bool]:
        """Logits (B', V) of some neighbouring rows after one more token, and whether steers acted on them."""
        ids = [self.running[row].ids[-1] for row in rows]
        with self._lm.steered(self._mix_of(rows)) as handle:  # for one step, so that other threads get their turn
            logits = self._backend.forward(ids, rows[0])
        return logits, handle.calls > 0

    def _mix_of(self, rows: Sequence[int]) -> Mix:
        """The strengths of some rows; those of all rows are kept for the next step."""
        is_whole = len(rows) == len(self.running)
        if is_whole and self._mix is not None:
            return self._mix
        requests = [self.running[row].request for row in rows]
        mix = row_by_row([(request.steers, request.strengths) for request in requests])
        if is_whole:
            self._mix = mix
        return mix

    def _drop_ended(self) -> None:
        """Remove the sequences that have ended, and those that nobody waits for any longer."""
        for row in reversed(range(len(self.running))):
            if self.running[row].cancelled or self.running[row].ended:
                self._remove(row)

    def _remove(self, row: int) -> None:
        """Remove a row; the last row takes its place, as in the backend."""
        self._backend.remove(row)
        self._mix = None
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last
