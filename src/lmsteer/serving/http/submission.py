"""A submission: the chunks of a request's sequences, passed from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from starlette.concurrency import run_in_threadpool

from lmsteer.errors import LMSteerError
from lmsteer.generation.readings import TokenReading
from lmsteer.serving.engine.engine import Engine
from lmsteer.serving.engine.jobs import BusyError
from lmsteer.serving.engine.logprobs import TokenLogprob
from lmsteer.serving.engine.requests import Chunk, FinishReason, GeneratedSequence, Request


@dataclass
class Choice:
    """The chunks of one sequence so far, put together.

    Attributes:
        text: the text.
        logprobs: the log-likelihoods of the tokens, if the request asked for them.
        prompt: the log-likelihoods of the prompt's tokens after its first, if the request asked for them.
        tokens: number of tokens.
        steered: number of tokens that were drawn after a steer had moved the hidden state.
        cached: number of the prompt's tokens that did not have to be read.
        finish: the reason why the sequence has ended, or None.
        readings: what is known of each token, if the request asked for it.
    """

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: Sequence[TokenLogprob] | None = None
    tokens: int = 0
    steered: int = 0
    cached: int = 0
    finish: FinishReason | None = None
    readings: list[TokenReading] = field(default_factory=list)

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """A chunk alone."""
        part = cls()
        part.add(chunk)
        return part

    def add(self, chunk: Chunk) -> None:
        """Append a chunk."""
        self.text += chunk.text
        self.tokens, self.steered, self.finish = chunk.tokens, chunk.steered, chunk.finish
        self.cached = chunk.cached
        if chunk.logprob is not None:
            self.logprobs.append(chunk.logprob)
        if chunk.prompt is not None:
            self.prompt = chunk.prompt
        if chunk.reading is not None:
            self.readings.append(chunk.reading)


class Submission:
    """The sequences of a request in the engine. Create it on the event loop, then call ``start``.

    Args:
        engine: the engine.
        requests: one request for each sequence.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self._engine, self._requests = engine, requests
        self._loop, self._chunks = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Chunk]]()
        self._sequences: Sequence[GeneratedSequence] = ()
        self._cancelled = False

    async def start(self) -> None:
        """Submit the requests. Another thread does it: it takes the engine's lock and draws all random numbers.

        Raises:
            BusyError: the queue is full.
            StoppedError: the engine is closed.
        """
        await run_in_threadpool(self._submit)

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Chunks as they come, each with the index of its sequence; if the caller stops, the sequences are cancelled.

        Raises:
            BusyError: the time was over before the first token.
            LMSteerError: a sequence failed.
        """
        unfinished, started = len(self._requests), False
        try:
            while unfinished:
                index, chunk = await self._chunks.get()
                started = started or chunk.tokens > 0 or chunk.prompt is not None
                if chunk.error is not None:
                    raise chunk.error
                if chunk.finish == "timeout" and not started:
                    raise BusyError("the request timed out in the queue.")
                unfinished -= chunk.finish is not None
                yield index, chunk
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop all sequences."""
        self._cancelled = True
        for sequence in self._sequences:
            sequence.cancel()

    def _submit(self) -> None:
        self._sequences = self._engine.submit(self._requests, self._on_chunk)
        if self._cancelled:  # the client hung up meanwhile
            self.cancel()

    def _on_chunk(self, index: int, chunk: Chunk) -> None:
        """Called from the engine's thread; after the loop has closed, nobody waits for chunks."""
        try:
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, (index, chunk))
        except RuntimeError as error:
            if not self._loop.is_closed():
                raise LMSteerError(str(error)) from error
