"""The HTTP side: OpenAI's paths, those of steers, and what operators look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http import errors as failures
from lmsteer.serving.http.metrics import Counted, Metrics
from lmsteer.serving.http.middleware import BodyLimit, key_check
from lmsteer.serving.http.responses import ResponseBuilder
from lmsteer.serving.http.schema import (
    AnalyseRequest,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ErrorBody,
    ModelCard,
    ModelList,
    SteerInfo,
    SteerList,
    WritingRequest,
)
from lmsteer.serving.http.service import Answer, Job, Service
from lmsteer.steer.steer import Steer

T = TypeVar("T")
# What nobody sees: the client has hung up.
_GONE = 499
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": what}
    for status, what in (
        (400, "The request cannot be answered as asked."),
        (401, "No valid key."),
        (404, "No such model or steer."),
        (413, "The body is too large."),
        (429, "Too much waits; Retry-After says when to come again."),
        (500, "The server failed."),
        (503, "The server is stopping; Retry-After says when to come again."),
    )
}


def create_app(service: Service, *, keys: Sequence[str] = (), body_bytes: int = 1 << 20) -> FastAPI:
    """The app of a service, which closes the engine when it ends.

    Args:
        service: that answers.
        keys: one of which requests must know; none to let all in.
        body_bytes: of a request, at most.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.engine.close)

    app = FastAPI(
        title="lmsteer",
        version=version("lmsteer"),
        description="OpenAI-compatible completions with a strength for each steer.",
        lifespan=lifespan,
    )
    failures.install(app)
    metrics = Metrics(service.engine)
    app.add_middleware(BodyLimit, most=body_bytes)
    app.add_middleware(Counted, metrics=metrics)
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(key_check(keys))], responses=_FAILURES)
    _writing(guarded, service, metrics)
    _reading(guarded, service)
    app.include_router(guarded)
    _operating(app, service, metrics)
    return app


def _writing(router: APIRouter, service: Service, metrics: Metrics) -> None:
    """Completions and chats."""

    @router.post("/completions", response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        job = await run_in_threadpool(service.completion, body)
        return await _answered(request, body, ResponseBuilder(service.lm, service.name, job, chat=False))

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Go on with a conversation."""
        job = await run_in_threadpool(service.chat, body)
        return await _answered(request, body, ResponseBuilder(service.lm, service.name, job, chat=True))

    async def _answered(request: Request, body: WritingRequest, wording: ResponseBuilder) -> Response:
        answer = Answer(service.engine, wording.job.orders)
        pieces = metrics.watched(answer.pieces(), wording)
        headers = _headers(wording.job)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return StreamingResponse(
                _events(answer, pieces, wording, usage), media_type="text/event-stream", headers=headers
            )
        try:
            whole = await _while_there(request, _whole(pieces, wording))
            return Response(status_code=_GONE) if whole is None else JSONResponse(whole.model_dump(), headers=headers)
        finally:
            answer.cancel()


def _reading(router: APIRouter, service: Service) -> None:
    """Models, steers, and texts read by them."""
    started = int(time.time())

    @router.get("/models")
    async def models() -> ModelList:
        """What is served."""
        return ModelList(data=[_card()])

    @router.get("/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """One of them, or one under steers, like ``sentiment@2.5``."""
        service.check_model(name)
        return _card().model_copy(update={"id": name})

    @router.get("/steers")
    def steers() -> SteerList:
        """Steers that requests may ask for, as they lie in their folders now."""
        return SteerList(data=[_told(name, service.shelf.find(name)) for name in service.shelf.names()])

    @router.get("/steers/{name}")
    def steer(name: str) -> SteerInfo:
        """One of them."""
        return _told(name, service.steer(name))

    @router.post("/analyse")
    async def analysed(body: AnalyseRequest, request: Request) -> Response:
        """Where texts lie on the dimensions of steers, and the words that put them there."""
        reading = [asyncio.wrap_future(each) for each in await run_in_threadpool(service.read, body)]
        try:
            found = await _while_there(request, asyncio.gather(*reading))
        finally:
            for each in reading:
                each.cancel()
        if found is None:
            return Response(status_code=_GONE)
        return JSONResponse({"data": [each.to_json() for each in found]})

    def _card() -> ModelCard:
        return ModelCard(id=service.name, created=started, max_model_len=service.rules.context)


def _operating(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Health and figures, for which no key is needed."""

    @app.get("/health", responses={503: {"description": "The engine has ended."}})
    async def health() -> JSONResponse:
        """Whether requests are taken, and how many are at work."""
        engine = service.engine
        status = "ok" if engine.alive else "stopped"
        content = {"status": status, "rows": engine.running, "waiting": engine.waiting}
        return JSONResponse(content, 200 if engine.alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(metrics.exposition())


async def _whole(pieces: AsyncIterator[tuple[int, Chunk]], wording: ResponseBuilder) -> Completion | ChatCompletion:
    async for place, piece in pieces:
        wording.choices[place].add(piece)
    return wording.whole()


async def _events(
    answer: Answer, pieces: AsyncIterator[tuple[int, Chunk]], wording: ResponseBuilder, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events: a piece each, OpenAI's end; a failure is an event, too, for the status is long out."""
    try:
        async for place, piece in pieces:
            if piece.text or piece.finish or piece.chosen:
                yield f"data: {wording.piece(place, piece).model_dump_json()}\n\n"
            else:
                wording.choices[place].add(piece)
        if usage:
            yield f"data: {wording.last().model_dump_json()}\n\n"
    except LMSteerError as error:
        yield f"data: {failures.answer_to(error)[1].model_dump_json()}\n\n"
    finally:
        answer.cancel()
    yield "data: [DONE]\n\n"


async def _while_there(request: Request, work: Awaitable[T]) -> T | None:
    """What comes of some work; None, and no more work, when the client hangs up first."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(job: Job) -> dict[str, str]:
    """Which steers act, and what is to be said of them."""
    acting = ",".join(f"{name}={strength:g}" for name, strength in job.dial.strengths.items())
    warning = {"X-LMSteer-Warning": " ".join(job.dial.warnings)} if job.dial.warnings else {}
    return {"X-LMSteer-Steers": acting, **warning}


def _told(name: str, steer: Steer) -> SteerInfo:
    card = steer.card
    return SteerInfo(
        name=name,
        label=card.label,
        form=steer.form,
        rank=steer.rank,
        safe_range=card.safe_range,
        auto=card.calibration.get("target_strength"),
        held_out=dict(card.held_out),
    )
