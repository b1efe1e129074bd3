"""Sends an answer: whole, as server-sent events, or as lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.engine import Engine
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.answer import Answer
from lmsteer.serving.http.metrics import Metrics
from lmsteer.serving.http.middleware import CLIENT_CLOSED
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Submission

T = TypeVar("T")
Piece = TypeVar("Piece")
# On a shutdown, streams are finished within uvicorn's grace period, not cut.
AppStatus.enable_automatic_graceful_drain = False


@dataclass(frozen=True)
class Sender:
    """Submits requests for text to the engine, and sends the answers.

    Attributes:
        engine: the engine.
        metrics: counts the chunks that pass.
        ping_seconds: time between two comments that keep a silent stream of events open, in seconds.
    """

    engine: Engine
    metrics: Metrics
    ping_seconds: float

    async def whole(self, request: Request, answer: Answer) -> Response:
        """The response once all of the text is there; an answer that nobody waits for any longer is cancelled."""
        submission, chunks = await self._start(answer)
        try:
            body = await unless_disconnected(request, _collect(chunks, answer))
            if body is None:
                return Response(status_code=CLIENT_CLOSED)
            return Response(body, headers=_headers(answer.parsed), media_type="application/json")
        finally:
            submission.cancel()

    async def events(self, answer: Answer, *, named: bool = False, end: str | None = None) -> Response:
        """A stream of server-sent events.

        Args:
            answer: the answer.
            named: whether each event has a name: its field ``type``.
            end: the data of one more event, which ends the stream.
        """

        def write(body: BaseModel) -> ServerSentEvent:
            return _event(body.model_dump_json(), getattr(body, "type", None) if named else None)

        submission, chunks = await self._start(answer)

        async def events() -> AsyncIterator[ServerSentEvent]:
            async for each in _pieces(submission, chunks, answer, write):
                yield each
            if end is not None:
                yield _event(end)

        # OpenAI's clients skip comments, and split lines at a bare newline.
        return EventSourceResponse(
            events(),
            headers=_headers(answer.parsed),
            ping=self.ping_seconds,
            sep="\n",
            ping_message_factory=_ping_event,
            background=_cancelling(submission),
        )

    async def lines(self, answer: Answer) -> Response:
        """A stream of JSON objects, one on each line."""
        submission, chunks = await self._start(answer)
        lines = _pieces(submission, chunks, answer, lambda body: body.model_dump_json() + "\n")
        return StreamingResponse(
            lines,
            headers=_headers(answer.parsed),
            media_type="application/x-ndjson",
            background=_cancelling(submission),
        )

    async def _start(self, answer: Answer) -> tuple[Submission, AsyncIterator[tuple[int, Chunk]]]:
        """Submit the sequences of an answer; gives their chunks, counted."""
        submission = Submission(self.engine, answer.parsed.requests)
        await submission.start()
        return submission, self.metrics.counted(submission.chunks(), answer)


def _cancelling(submission: Submission) -> BackgroundTask:
    """Cancels a submission once its stream has ended, which may be before it has begun: the client may be gone."""

    async def cancel() -> None:
        submission.cancel()

    return BackgroundTask(cancel)


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    """The result of ``work``; None if the client hangs up first, which cancels the work."""
    working, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        disconnected.cancel()


async def _disconnect(request: Request) -> None:
    """Wait until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _collect(chunks: AsyncIterator[tuple[int, Chunk]], answer: Answer) -> str:
    """The whole response as JSON, once all chunks are there."""
    async for index, chunk in chunks:
        answer.note(index, chunk)
    # In a thread: the log-likelihoods of many long prompts take their time.
    return await run_in_threadpool(lambda: answer.whole().model_dump_json())


async def _pieces(
    submission: Submission,
    chunks: AsyncIterator[tuple[int, Chunk]],
    answer: Answer,
    write: Callable[[BaseModel], Piece],
) -> AsyncIterator[Piece]:
    """The pieces of a stream. An error becomes one as well, because the status has been sent long before."""
    try:
        for body in answer.opening():
            yield write(body)
        async for index, chunk in chunks:
            for piece in await _written(answer, index, chunk, write):
                yield piece
        for body in answer.closing():
            yield write(body)
    except LMSteerError as error:
        yield write(answer.failure(error))
    finally:
        submission.cancel()


async def _written(answer: Answer, index: int, chunk: Chunk, write: Callable[[BaseModel], Piece]) -> list[Piece]:
    """The pieces of a chunk; made in a thread if it has a whole prompt in it."""

    def written() -> list[Piece]:
        return [write(body) for body in answer.delta(index, chunk)]

    return await run_in_threadpool(written) if chunk.prompt else written()


def _event(data: str, name: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(data, event=name, sep="\n")


def _ping_event() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")


def _headers(parsed: ParsedRequest) -> dict[str, str]:
    """Response headers: the steers that act, and warnings."""
    steering = parsed.steering
    acting = ",".join(f"{name}={strength:g}" for name, strength in steering.strengths.items())
    warning = {"X-LMSteer-Warning": " ".join(steering.warnings)} if steering.warnings else {}
    return {"X-LMSteer-Steers": acting, **warning}
