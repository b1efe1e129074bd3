"""The HTTP app: the paths of OpenAI and Ollama, the paths for steers, and health and metrics for operators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from lmsteer.reading.analyse import Analysis
from lmsteer.serving.http.calibration import Calibrations
from lmsteer.serving.http.calibration_routes import add_calibration
from lmsteer.serving.http.errors import install_handlers
from lmsteer.serving.http.json_route import JsonRoute
from lmsteer.serving.http.metrics import Metrics, RequestCounter
from lmsteer.serving.http.middleware import CLIENT_CLOSED, BodyLimit, FaultAnswer, PathCleaner, key_check
from lmsteer.serving.http.ollama_routes import add_ollama
from lmsteer.serving.http.openai_routes import add_openai
from lmsteer.serving.http.schema.ollama import OllamaError
from lmsteer.serving.http.schema.requests import AnalyseRequest
from lmsteer.serving.http.schema.responses import ErrorBody, ModelCard, ModelList, SteerInfo, SteerList
from lmsteer.serving.http.sending import Sender, unless_disconnected
from lmsteer.serving.http.service import Service
from lmsteer.serving.http.start_routes import add_starts
from lmsteer.steer.steer import Steer

_ERRORS = {
    400: "The request is not valid.",
    401: "No valid key.",
    404: "No such model or steer.",
    413: "The body is too large.",
    415: "The body is a form or compressed, or a web page sends it without the type of JSON.",
    429: "The queue is full; Retry-After says when to retry.",
    500: "The server failed.",
    503: "The server is stopping; Retry-After says when to retry.",
}


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
        description="Text for clients of OpenAI's and Ollama's interfaces, with a strength for each steer.",
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
    sender = Sender(service.engine, metrics, ping_seconds)
    guard = [Depends(key_check(keys))]
    openai = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=guard, responses=_errors(ErrorBody))
    add_openai(openai, service, sender)
    _add_models_and_steers(openai, service)
    add_starts(openai, service.starts)
    _add_analysis(openai, service)
    add_calibration(openai, Calibrations(service))
    ollama = APIRouter(prefix="/api", route_class=JsonRoute, dependencies=guard, responses=_errors(OllamaError))
    add_ollama(ollama, service, sender)
    app.include_router(openai)
    app.include_router(ollama)
    _add_operations(app, service, metrics)
    return app


def _errors(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What the page of the interface says of errors."""
    return {status: {"model": body, "description": description} for status, description in _ERRORS.items()}


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

        async def gathered() -> list[Analysis]:
            return await asyncio.gather(*futures)

        try:
            analyses = await unless_disconnected(request, gathered())
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


def _steer_info(name: str, steer: Steer) -> SteerInfo:
    card = steer.card
    return SteerInfo(
        name=name,
        label=card.label,
        form=steer.form,
        rank=steer.rank,
        sites=[*steer.sites],
        safe_range=card.safe_range,
        target_strength=card.calibration.get("target_strength"),
        held_out=dict(card.held_out),
    )
