"""The HTTP app: OpenAI's paths, the paths for steers, and health and metrics for operators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.errors import error_response, install_handlers
from lmsteer.serving.http.json_route import JsonRoute
from lmsteer.serving.http.metrics import Metrics, RequestCounter
from lmsteer.serving.http.middleware import CLIENT_CLOSED, BodyLimit, FaultAnswer, PathCleaner, key_check
from lmsteer.serving.http.responses import ResponseBuilder
from lmsteer.serving.http.schema.requests import AnalyseRequest, ChatRequest, CompletionRequest, TextRequest
from lmsteer.serving.http.schema.responses import (
    ChatCompletion,
    Completion,
    ErrorBody,
    ModelCard,
    ModelList,
    SteerInfo,
    SteerList,
)
from lmsteer.serving.http.service import ParsedRequest, Service
from lmsteer.serving.http.submission import Submission
from lmsteer.steer.steer import Steer

T = TypeVar("T")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (400, "The request is not valid."),
        (401, "No valid key."),
        (404, "No such model or steer."),
        (413, "The body is too large."),
        (415, "The body is a form or compressed, or a web page sends it without the type of JSON."),
        (429, "The queue is full; Retry-After says when to retry."),
        (500, "The server failed."),
        (503, "The server is stopping; Retry-After says when to retry."),
    )
}
# On a shutdown, streams are finished within uvicorn's grace period, not cut.
AppStatus.enable_automatic_graceful_drain = False


def create_app(
    service: Service,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    body_bytes: int = 1 << 20,
    ping_seconds: float = 15.0,
) -> FastAPI:
    """The app of a service. It closes the engine when it stops.

    Args:
        service: the service.
        keys: API keys, one of which each request must send; empty to accept all requests.
        origins: origins whose web pages may use the server from a browser; ``*`` for all.
        body_bytes: maximum size of a request body, in bytes.
        ping_seconds: time between two comments that keep a silent stream open, in seconds.
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
    app.state.service = service
    install_handlers(app)
    metrics = Metrics(service.engine)
    # The last one comes first. Errors, too, have the headers without which a browser hides them from the page.
    app.add_middleware(BodyLimit, max_bytes=body_bytes)
    app.add_middleware(FaultAnswer)
    app.add_middleware(RequestCounter, metrics=metrics)
    app.add_middleware(PathCleaner)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-LMSteer-Steers", "X-LMSteer-Warning", "Retry-After"],
        )
    guarded = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[Depends(key_check(keys))], responses=_ERRORS)
    _add_generation(guarded, service, metrics, ping_seconds)
    _add_models_and_steers(guarded, service)
    _add_analysis(guarded, service)
    app.include_router(guarded)
    _add_operations(app, service, metrics)
    return app


def _add_generation(router: APIRouter, service: Service, metrics: Metrics, ping_seconds: float) -> None:
    """Completions and chats."""

    @router.post("/completions", response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        parsed = await run_in_threadpool(service.completion, body)
        return await _respond(request, body, ResponseBuilder(service.lm, service.name, parsed, chat=False))

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        parsed = await run_in_threadpool(service.chat, body)
        return await _respond(request, body, ResponseBuilder(service.lm, service.name, parsed, chat=True))

    async def _respond(request: Request, body: TextRequest, builder: ResponseBuilder) -> Response:
        submission = Submission(service.engine, builder.parsed.requests)
        await submission.start()
        chunks = metrics.counted(submission.chunks(), builder)
        headers = _headers(builder.parsed)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(submission, chunks, builder, usage)
            # OpenAI's clients skip comments, and split lines at a bare newline.
            return EventSourceResponse(
                events, headers=headers, ping=ping_seconds, sep="\n", ping_message_factory=_ping_event
            )
        try:
            whole = await _unless_disconnected(request, _collect(chunks, builder))
            if whole is None:
                return Response(status_code=CLIENT_CLOSED)
            return Response(whole, headers=headers, media_type="application/json")
        finally:
            submission.cancel()


def _add_models_and_steers(router: APIRouter, service: Service) -> None:
    """The lists of models and steers."""
    started = int(time.time())

    # Plain functions run in a thread: they read steers from disk.
    @router.get("/models")
    def models() -> ModelList:
        """List the served model."""
        return ModelList(data=[_card()])

    @router.get("/models/{name:path}")
    def model(name: str) -> ModelCard:
        """The served model, or that model with steers, like ``sentiment@2.5``."""
        service.check_model(name)
        return _card().model_copy(update={"id": name})

    @router.get("/steers")
    def steers() -> SteerList:
        """List the steers that requests may name, as they are saved now."""
        names = service.registry.names()
        return SteerList(data=[_steer_info(name, service.registry.find(name)) for name in names])

    @router.get("/steers/{name}")
    def steer(name: str) -> SteerInfo:
        """One steer."""
        return _steer_info(name, service.steer(name))

    def _card() -> ModelCard:
        return ModelCard(id=service.name, created=started, max_model_len=service.limits.max_model_len)


def _add_analysis(router: APIRouter, service: Service) -> None:
    """Texts analysed by steers."""

    @router.post("/analyse")
    async def analyse(body: AnalyseRequest, request: Request) -> Response:
        """Positions of texts on the dimensions of steers, and the words that put them there."""
        futures = [asyncio.wrap_future(each) for each in await run_in_threadpool(service.analyse, body)]
        try:
            analyses = await _unless_disconnected(request, asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()
        if analyses is None:
            return Response(status_code=CLIENT_CLOSED)
        return JSONResponse({"data": [analysis.to_json() for analysis in analyses]})


def _add_operations(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Health and metrics, which need no key."""

    @app.get("/health", responses={503: {"description": "The engine has stopped."}})
    async def health() -> JSONResponse:
        """Whether requests are accepted, and how many sequences are running and waiting."""
        engine = service.engine
        status = "ok" if engine.alive else "stopped"
        content = {"status": status, "running": engine.running, "waiting": engine.waiting}
        return JSONResponse(content, 200 if engine.alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Metrics for Prometheus."""
        return PlainTextResponse(metrics.exposition())


async def _collect(chunks: AsyncIterator[tuple[int, Chunk]], builder: ResponseBuilder) -> str:
    """The whole response as JSON, once all chunks are there."""
    async for index, chunk in chunks:
        builder.choices[index].add(chunk)
    # In a thread: the log-likelihoods of many long prompts take their time.
    return await run_in_threadpool(lambda: builder.whole().model_dump_json())


async def _events(
    submission: Submission, chunks: AsyncIterator[tuple[int, Chunk]], builder: ResponseBuilder, usage: bool
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: one for each chunk, then OpenAI's end mark.

    An error becomes an event as well, because the status has been sent long before.
    """
    try:
        async for index, chunk in chunks:
            if chunk.text or chunk.finish or chunk.logprob or chunk.prompt is not None:
                yield _event(await _delta(builder, index, chunk))
            else:
                builder.choices[index].add(chunk)
        if usage:
            yield _event(builder.final_usage().model_dump_json())
    except LMSteerError as error:
        yield _event(error_response(error)[1].model_dump_json())
    finally:
        submission.cancel()
    yield _event("[DONE]")


async def _delta(builder: ResponseBuilder, index: int, chunk: Chunk) -> str:
    """A chunk as JSON; made in a thread if it has a whole prompt in it."""

    def dump() -> str:
        return builder.delta(index, chunk).model_dump_json()

    return await run_in_threadpool(dump) if chunk.prompt else dump()


def _event(data: str) -> ServerSentEvent:
    return ServerSentEvent(data, sep="\n")


def _ping_event() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
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


def _headers(parsed: ParsedRequest) -> dict[str, str]:
    """Response headers: the steers that act, and warnings."""
    steering = parsed.steering
    acting = ",".join(f"{name}={strength:g}" for name, strength in steering.strengths.items())
    warning = {"X-LMSteer-Warning": " ".join(steering.warnings)} if steering.warnings else {}
    return {"X-LMSteer-Steers": acting, **warning}


def _steer_info(name: str, steer: Steer) -> SteerInfo:
    card = steer.card
    return SteerInfo(
        name=name,
        label=card.label,
        form=steer.form,
        rank=steer.rank,
        safe_range=card.safe_range,
        target_strength=card.calibration.get("target_strength"),
        held_out=dict(card.held_out),
    )
