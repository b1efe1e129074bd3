"""The running batch: one decoding step for all sequences, each with its own strengths.

::

    admit ──prefill, in chunks──> running ──step──> logits ──draw──> one token each ──on_chunk──> the client
                                     │  └── the strengths of each row steer the hidden states before the head
                                     └── remove: ended, cancelled, timed out, preempted
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
from lmsteer.serving.engine.batch import PREFILL_CHUNK, PromptChunk
from lmsteer.serving.engine.prompts import OVERFLOW, score_prompts
from lmsteer.serving.engine.requests import GeneratedSequence, TokenLogprob, token_logprobs
from lmsteer.steer.hook import unsteered
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.util.memory import trim_heap

_UNSTEERED = Mix({}, {})
_PROMPT_TOO_SLOW = "the request timed out before its prompt was read: send a shorter prompt."


class Scheduler:
    """The sequences that are prefilled or decoded. One thread calls all methods.

    Args:
        lm: the model. Other threads that use it take turns with this one, step by step.
        prefill_chunk: number of prompt tokens to read between two decoding steps.

    Attributes:
        running: sequences that are decoded, in the order of the batch.
        prefilling: sequences whose prompts are being read.
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
        self._mix = _UNSTEERED
        self.running: list[GeneratedSequence] = []
        self.prefilling: list[GeneratedSequence] = []
        self._chunks: Iterator[PromptChunk] = iter(())
        self.steps = 0
        self.preemptions = 0

    def __len__(self) -> int:
        return len(self.running)

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
        for sequence in sequences:
            sequence.begin_prompt()
        self.prefilling = [*sequences]
        self._chunks = self._backend.prefill([sequence.ids for sequence in sequences])

    def prefill(self) -> None:
        """Read one chunk of the prompts. After the last chunk the sequences join the running ones, or end."""
        if all(sequence.cancelled or sequence.timed_out for sequence in self.prefilling):
            abandoned, self.prefilling, self._chunks = self.prefilling, [], iter(())
            for sequence in abandoned:
                if sequence.cancelled or sequence.started:
                    sequence.expire()
                else:
                    sequence.fail(LMSteerError(_PROMPT_TOO_SLOW))
            return
        with self.unsteered():
            chunk = next(self._chunks)
            score_prompts(self._lm.head, self.prefilling, chunk.hidden)
        if not chunk.left:
            read, first = self.prefilling, len(self.running)
            self.running, self.prefilling, self._chunks = [*self.running, *read], [], iter(())
            ended = [first + i for i, sequence in enumerate(read) if sequence.cancelled or not sequence.end_prompt()]
            self._remove_all(ended)
            self._set_strengths()

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """The model without steers, within a ``with`` block."""
        with unsteered(self._lm.model):
            yield

    def step(self) -> None:
        """Decode one token for each running sequence, and remove those that end with it."""
        with self._lm.steered(self._mix) as handle:  # for one step, so that other threads get their turn
            logits = self._backend.step([sequence.ids[-1] for sequence in self.running])
        was_steered = handle.calls > 0
        self.steps += 1
        self._fail_overflowed(logits)
        logprobs = self._logprobs(logits)
        tokens = self._draw(logits)  # which overwrites the logits
        ended = []
        for i, (sequence, token) in enumerate(zip(self.running, tokens, strict=True)):
            steered = was_steered and any(sequence.request.strengths.values())
            top = sequence.request.num_logprobs
            logprob: TokenLogprob | None = None if top is None else token_logprobs(logprobs[i][None], [token], top)[0]
            if sequence.cancelled or not sequence.append(token, steered, logprob):
                ended.append(i)
        self._remove_all(ended)
        if ended:
            self._set_strengths()

    def preempt(self) -> GeneratedSequence:
        """Remove the newest sequence, with its text so far, so that it can be admitted again."""
        newest = max(range(len(self.running)), key=lambda i: self.running[i].arrival)
        sequence = self.running[newest]
        self._remove(newest)
        self._set_strengths()
        self.preemptions += 1
        return sequence

    def fail_all(self, error: LMSteerError) -> None:
        """End all sequences with an error and start with an empty cache."""
        for sequence in [*self.running, *self.prefilling]:
            sequence.fail(error)
        self.running, self.prefilling, self._chunks = [], [], iter(())
        self._backend = self._make_backend()
        self._mix = _UNSTEERED
        trim_heap()

    def _fail_overflowed(self, logits: Tensor) -> None:
        """End the sequences whose logits (B, V) are not finite; the others are not affected."""
        overflowed = (~logits.amax(-1).isfinite()).nonzero().flatten()
        for i in overflowed.tolist():
            if not self.running[i].cancelled:
                self.running[i].fail(SteerError(OVERFLOW))
                self.running[i].cancel()
        if len(overflowed):
            logits.nan_to_num_()  # the draw needs finite numbers, whoever gets them

    def _logprobs(self, logits: Tensor) -> dict[int, Tensor]:
        """Log-likelihoods (V,) of all tokens, by row, for the sequences that asked for some."""
        rows = [i for i, sequence in enumerate(self.running) if sequence.request.num_logprobs is not None]
        return dict(zip(rows, torch.log_softmax(logits[rows].float(), -1), strict=True)) if rows else {}

    def _draw(self, logits: Tensor) -> list[int]:
        """One token for each row of the logits (B, V); rows with the same sampling are drawn together."""
        tokens = [0] * len(self.running)
        for sampling in {sequence.request.sampling for sequence in self.running}:
            rows = [i for i, sequence in enumerate(self.running) if sequence.request.sampling == sampling]
            noise = torch.stack([self.running[i].noise for i in rows])
            for i, token in zip(rows, draw(logits[rows], noise, sampling).tolist(), strict=True):
                tokens[i] = token
        return tokens

    def _set_strengths(self) -> None:
        """Steer each row with its own strengths."""
        requests = [sequence.request for sequence in self.running]
        self._mix = row_by_row([(request.steers, request.strengths) for request in requests])

    def _remove_all(self, rows: Sequence[int]) -> None:
        """Remove rows, given in rising order."""
        for row in reversed(rows):
            self._remove(row)

    def _remove(self, row: int) -> None:
        """Remove a row; the last row takes its place, as in the backend."""
        self._backend.remove(row)
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last
