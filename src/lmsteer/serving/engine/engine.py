"""The engine: one thread that owns the model, and the queue of requests before it.

::

    submit ──> waiting ──admit──> prefilling ──> running ──step──> one token for each sequence, again and again
                  ^                                 │
                  └──────────── preempt ────────────┘   when the KV cache is full

Each turn of the thread reads one chunk of new prompts and decodes one token for each running sequence, so that no
running sequence waits for a long prompt. Other work on the model (reading a text, say) takes turns with it (``jobs``).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import TypeVar

import torch

from lmsteer.errors import LMSteerError
from lmsteer.generation.batch import SPARE
from lmsteer.generation.prefill import prefill_chunk
from lmsteer.model.lm import LM
from lmsteer.serving.engine.isolation import as_step_error
from lmsteer.serving.engine.jobs import BusyError, Jobs, StoppedError
from lmsteer.serving.engine.requests import Chunk, Clock, GeneratedSequence, Request
from lmsteer.serving.engine.scheduler import Scheduler

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class EngineConfig:
    """The limits of an engine.

    Attributes:
        max_num_seqs: maximum number of sequences that are prefilled or decoded at once.
        max_queue: maximum number of sequences that wait for a place; more are refused with ``BusyError``.
        max_cache_tokens: size of the KV cache in tokens over all sequences, padding included.
        prefill_chunk: number of prompt tokens to read between two decoding steps; by default 256 on a CPU and 2,048 on
            an accelerator.
        max_prefix_tokens: number of prompt tokens whose keys and values are kept for later prompts that begin alike
            (one system prompt, a longer conversation), beside the KV cache; 0 for none.
        headroom: number of new tokens for each sequence that the KV cache must have room for when one is admitted.
    """

    max_num_seqs: int = 32
    max_queue: int = 128
    max_cache_tokens: int = 32_768
    prefill_chunk: int | None = None
    max_prefix_tokens: int = 4096
    headroom: int = SPARE


class Engine:
    """Generates sequences, as many at once as its limits allow.

    Args:
        lm: the model. Other threads that use it take turns with the engine, step by step.
        config: the limits.
        clock: time in seconds.

    Attributes:
        prefill_chunk: number of prompt tokens that are read between two decoding steps.

    Raises:
        ModelError: the weights of the model are split over processes.
    """

    def __init__(self, lm: LM, config: EngineConfig = EngineConfig(), *, clock: Clock = time.monotonic) -> None:
        lm.check_in_one_process("the engine")
        self.lm, self.config, self._clock = lm, config, clock
        self.prefill_chunk = config.prefill_chunk or prefill_chunk(lm.device)
        self._scheduler = Scheduler(lm, self.prefill_chunk, config.max_prefix_tokens)
        self._waiting = deque[GeneratedSequence]()
        self._max_num_seqs = min(config.max_num_seqs, self._scheduler.max_num_seqs or config.max_num_seqs)
        # How many there is memory for; it is found out anew whenever there is nothing to do.
        self._fitting = self._max_num_seqs
        self._jobs = Jobs(max(1, config.max_queue))
        self._changed = Condition()
        self._closing = False
        self._arrivals = 0
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Number of sequences that are prefilled or decoded."""
        scheduler = self._scheduler
        sequences = [*scheduler.running, *scheduler.prefilling]
        return sum(not sequence.cancelled and not sequence.ended for sequence in sequences)

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place."""
        return sum(not sequence.cancelled for sequence in [*self._waiting])

    @property
    def max_jobs(self) -> int:
        """Maximum number of jobs of ``call`` that wait: ``max_queue``, but at least one."""
        return self._jobs.max_waiting

    @property
    def alive(self) -> bool:
        """Whether it accepts requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def steps(self) -> int:
        """Number of decoding steps so far."""
        return self._scheduler.steps

    @property
    def preemptions(self) -> int:
        """Number of sequences that were preempted so far."""
        return self._scheduler.preemptions

    @property
    def prefix_tokens(self) -> int:
        """Number of prompt tokens so far that did not have to be read, since an earlier prompt began alike."""
        return self._scheduler.prefix_tokens

    @property
    def cache_bytes(self) -> int:
        """Size of the KV cache in bytes."""
        return self._scheduler.cache_bytes

    def submit(self, requests: Sequence[Request], on_chunk: Callable[[int, Chunk], None]) -> list[GeneratedSequence]:
        """Queue requests, all of them or none.

        Args:
            requests: one for each sequence.
            on_chunk: called from the engine's thread with the place of the request and its next chunk.

        Returns:
            The sequences; cancel those that nobody waits for any longer.

        Raises:
            BusyError: the queue is full.
            StoppedError: the engine is closed.
            LMSteerError: a request is not one that the model can serve, or they exceed the limits of the engine,
                however long they wait.
        """
        config = self.config
        if len(requests) > config.max_queue + self._max_num_seqs:
            raise LMSteerError(
                f"{len(requests)} sequences are more than the engine can hold: {self._max_num_seqs} running and "
                f"{config.max_queue} waiting."
            )
        for request in requests:
            request.check(self.lm)
            if (need := request.tokens + request.max_new_tokens) > config.max_cache_tokens:
                raise LMSteerError(f"{need:,} tokens are more than the KV cache holds ({config.max_cache_tokens:,}).")
        # Before the lock is taken: the random numbers of long sequences take their time.
        sequences = [
            GeneratedSequence(self.lm, request, partial(on_chunk, place), self._clock)
            for place, request in enumerate(requests)
        ]
        with self._changed:
            self._check_alive()
            if self.waiting + len(requests) > config.max_queue + max(0, self._max_num_seqs - self.running):
                raise BusyError(f"the queue is full: {self.waiting} sequences are waiting already.")
            for sequence in sequences:
                sequence.arrival, self._arrivals = self._arrivals, self._arrivals + 1
            self._waiting.extend(sequences)
            self._changed.notify()
        return sequences

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Run a job beside the running sequences; see ``Jobs.submit``.

        Raises:
            BusyError: too many jobs are waiting.
            StoppedError: the engine is closed.
        """
        return self._jobs.submit(job)

    def close(self) -> None:
        """Refuse new requests, end all sequences with ``StoppedError``, and stop the thread."""
        self._jobs.refuse()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._jobs.close()

    def _check_alive(self) -> None:
        if not self.alive:
            raise StoppedError

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._turn()
                except BaseException as error:  # the cache may be damaged: only the waiting sequences are safe
                    self._scheduler.fail_all(as_step_error(error))
        finally:
            self._stop()

    def _wait(self) -> bool:
        """Wait until there is something to do; False if the engine is closing."""
        with self._changed:
            if not self._has_work():
                self._fitting = self._max_num_seqs
                self._changed.wait_for(self._has_work)
        return not self._closing

    def _has_work(self) -> bool:
        scheduler = self._scheduler
        return bool(self._closing or self._waiting or scheduler.prefilling or scheduler.running)

    def _turn(self) -> None:
        """One chunk of new prompts, and one decoding step."""
        self._admit()
        if self._scheduler.prefilling and (postponed := self._scheduler.prefill()):
            self._postpone(postponed, len(self._scheduler))
        self._preempt()
        if len(self._scheduler):
            self._scheduler.step()

    def _admit(self) -> None:
        """Admit waiting sequences in the order of arrival, once the current prefill is done."""
        admitted: list[GeneratedSequence] = []
        with self._changed:
            ended = [sequence for sequence in self._waiting if sequence.cancelled or sequence.timed_out]
            self._waiting = deque(sequence for sequence in self._waiting if sequence not in ended)
            while not self._scheduler.prefilling and self._waiting and self._has_room(admitted, self._waiting[0]):
                admitted.append(self._waiting.popleft())
        for sequence in ended:
            sequence.expire()
        if admitted:
            self._scheduler.admit(admitted)

    def _has_room(self, admitted: Sequence[GeneratedSequence], sequence: GeneratedSequence) -> bool:
        """Whether a sequence can be admitted together with others: into one prefill chunk, and into the KV cache.

        Sequences are padded to the longest one. The only sequence is always admitted.
        """
        prompts = [len(each.ids) for each in [*admitted, sequence]]
        if admitted and len(prompts) * max(prompts) > self.prefill_chunk:
            return False
        sequences = [*self._scheduler.running, *admitted]
        longest = max(each.length for each in [*sequences, sequence]) + self.config.headroom
        fits = (len(sequences) + 1) * longest <= self.config.max_cache_tokens
        return len(sequences) < self._fitting and (fits or not sequences)

    def _preempt(self) -> None:
        """Preempt the newest sequences while the KV cache, or memory, is too small; they are recomputed later."""
        scheduler = self._scheduler
        while len(scheduler):
            if len(scheduler) * (scheduler.longest + 1) <= self.config.max_cache_tokens:
                if len(scheduler) == 1 or scheduler.make_room():
                    return
                self._postpone([scheduler.preempt()], len(scheduler))
            else:
                self._postpone([scheduler.preempt()])

    def _postpone(self, sequences: Sequence[GeneratedSequence], fitting: int | None = None) -> None:
        """Let sequences wait, before the others. Where memory is short, only ``fitting`` are decoded at once then."""
        if fitting is not None:
            _log.warning("memory is short: at most %d sequences at once, until there is nothing to do", fitting)
            self._fitting = fitting
        with self._changed:
            self._waiting.extendleft(reversed(sequences))

    def _stop(self) -> None:
        """End everything that is still in the engine."""
        stopped = StoppedError()
        with self._changed:
            self._closing = True
            waiting = [*self._waiting]
            self._waiting.clear()
        self._scheduler.fail_all(stopped)
        for sequence in waiting:
            sequence.fail(stopped)
