"""The running batch: one decoding step for all sequences, each with its own strengths.

::

    admit ──prefill, in chunks──> running ──step of the decoder──> one token each ──on_chunk──> the client
                                     └── remove: ended, cancelled, timed out, preempted

A sequence on which any of this fails ends alone (``isolation``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from lmsteer.errors import LMSteerError
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.prefill import PREFILL_CHUNK, PromptChunk
from lmsteer.generation.prefix_cache import PrefixCache
from lmsteer.generation.row import Row
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.serving.engine.isolation import as_step_error, halves, isolated
from lmsteer.serving.engine.prompts import score_prompts
from lmsteer.serving.engine.requests import GeneratedSequence
from lmsteer.serving.engine.sending import send
from lmsteer.steer.hook import unsteered
from lmsteer.util.compat import is_out_of_memory
from lmsteer.util.lists import swap_out
from lmsteer.util.memory import trim_heap

_PROMPT_TOO_SLOW = "the request timed out before its prompt was read: send a shorter prompt."


class Scheduler:
    """The sequences that are prefilled or decoded. One thread calls all methods.

    Args:
        lm: the model. Other threads that use it take turns with this one, step by step.
        prefill_chunk: number of prompt tokens to read between two decoding steps.
        max_prefix_tokens: number of tokens of prompts that are kept for later prompts that begin alike.

    Attributes:
        running: sequences that are decoded, in the order of the batch.
        max_num_seqs: largest number of sequences that the model can decode at once; None for any number.
        steps: number of decoding steps so far.
        preemptions: number of sequences that were preempted so far.
        prefix_tokens: number of prompt tokens so far that did not have to be read.
    """

    def __init__(self, lm: LM, prefill_chunk: int = PREFILL_CHUNK, max_prefix_tokens: int = 0) -> None:
        self._lm = lm
        self._prefixes = PrefixCache(max_prefix_tokens)
        self._decoder = Decoder(lm, prefill_chunk)
        self.max_num_seqs = self._decoder.max_rows
        self.running: list[GeneratedSequence] = []
        # The prompts of the first group are being read.
        self._groups: deque[Sequence[GeneratedSequence]] = deque()
        self._chunks: Iterator[PromptChunk] = iter(())
        self.steps = 0
        self.preemptions = 0
        self.prefix_tokens = 0

    def __len__(self) -> int:
        return len(self.running)

    @property
    def prefilling(self) -> list[GeneratedSequence]:
        """Sequences whose prompts are being read."""
        return [*chain.from_iterable(self._groups)]

    @property
    def cache_bytes(self) -> int:
        """Size of the KV cache in bytes."""
        return self._decoder.bytes

    @property
    def longest(self) -> int:
        """Length in tokens of the longest running sequence."""
        return max((sequence.length for sequence in self.running), default=0)

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
            if is_out_of_memory(error):
                self._prefixes.clear()
                if self.running:
                    self._replace_group([])
                    return group
            if len(group) == 1:
                group[0].fail(as_step_error(error))
            self._replace_group(halves(group) if len(group) > 1 else [])
            return ()
        score_prompts(self._lm.head, group, chunk.hidden)
        if not chunk.left:
            for sequence, states in zip(group, chunk.states, strict=False):  # a recurrent model has none
                self._prefixes.keep(sequence.row.start, states)
            self.running += group
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
            self._decoder.make_room()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._prefixes.clear()
            return False
        return True

    def step(self) -> None:
        """Decode one token for each running sequence, and remove those that end with it."""
        decoder = self._decoder
        parts = isolated(decoder.pass_over, range(len(self.running)), lambda row, error: self.running[row].fail(error))
        decoder.keep(parts)
        self.steps += 1
        send(self.running, decoder.look(), parts)
        self._drop_ended()

    def preempt(self) -> GeneratedSequence:
        """Remove the newest sequence, with its text so far, so that it can be admitted again."""
        newest = max(range(len(self.running)), key=lambda i: self.running[i].arrival)
        sequence = self.running[newest]
        sequence.sums = self._decoder.sums(newest)
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
        self._decoder.clear()
        self._prefixes.clear()
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
            self._chunks = self._decoder.prefill(self._rows(self._groups[0]))

    def _rows(self, sequences: Sequence[GeneratedSequence]) -> list[Row]:
        """The rows of sequences, which start after what is kept of the beginnings of their prompts."""
        rows, starts = [], dict[tuple[int, ...], Start]()
        for sequence in sequences:
            row, ids = sequence.row, tuple(sequence.ids)
            if row.start.is_plain and not sequence.wants_prompt:
                if ids not in starts:
                    starts[ids] = self._prefixes.shortened(row.start)
                    self.prefix_tokens += starts[ids].position
                row = replace(row, start=starts[ids])
                if not sequence.started:
                    sequence.cached = row.start.position
            rows.append(row)
        return rows

    def _drop_ended(self) -> None:
        """Remove the sequences that have ended, and those that nobody waits for any longer."""
        for row in reversed(range(len(self.running))):
            if self.running[row].cancelled or self.running[row].ended:
                self._remove(row)

    def _remove(self, row: int) -> None:
        """Remove a row; the last row takes its place, as in the backend."""
        self._decoder.remove(row)
        swap_out(self.running, row)
