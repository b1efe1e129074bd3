"""serve: a model, its steers, and a server for them, from start to a graceful stop."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from lmsteer.errors import LMSteerError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.engine import Engine, EngineConfig
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.middleware import is_key
from lmsteer.serving.http.service import RequestLimits, Service
from lmsteer.serving.registry import SteerRegistry
from lmsteer.steer.lookup import SHIPPED_FOLDER, STEERS_FOLDER


@dataclass(frozen=True)
class ServerSettings:
    """How a server stands to the world.

    Attributes:
        host: address to listen at.
        port: of it.
        keys: one of which requests must know; none to let all in.
        body_bytes: of a request, at most.
        grace: seconds in which answers may be finished when the server is told to stop.
        page: also serve a web page.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()
    body_bytes: int = 1 << 20
    grace: int = 20
    page: bool = True


@dataclass(frozen=True)
class ServiceConfig:
    """What is served.

    Attributes:
        limits: of the engine.
        context: tokens of a prompt and what follows, at most; the model's own, but no more than fit, if None.
        rows: of one request, at most.
        seconds: that an answer may take.
        strict: refuse strengths outside the safe range.
        folders: of steers.
    """

    limits: EngineConfig = field(default_factory=EngineConfig)
    context: int | None = None
    rows: int = 64
    seconds: float = 120.0
    strict: bool = False
    folders: Sequence[Path] = (STEERS_FOLDER, SHIPPED_FOLDER)


def service_of(lm: LM, serving: ServiceConfig | None = None) -> Service:
    """A service of a model, with an engine of its own.

    Raises:
        LMSteerError: limits that make no sense, or a model that cannot be served.
    """
    serving = serving or ServiceConfig()
    limits = serving.limits
    for what, value in (("rows", limits.rows), ("tokens", limits.tokens), ("seconds", serving.seconds)):
        if not value > 0:
            raise LMSteerError(f"a server with {value} {what} cannot answer.")
    if limits.waiting < 0:
        raise LMSteerError(f"{limits.waiting} rows cannot wait.")
    longest = min(lm.max_length, limits.tokens)
    context = longest if serving.context is None else serving.context
    if not 2 <= context <= longest:
        raise LMSteerError(f"a context of {context} tokens is not to be had: the model and its limits allow {longest}.")
    shelf = SteerRegistry(serving.folders, lambda card: card.check_base(lm))
    rules = RequestLimits(context, serving.rows, serving.seconds, serving.strict)
    return Service(Engine(lm, limits), shelf, rules, lm.name)


def serve(service: Service, settings: ServerSettings | None = None) -> None:
    """Answer requests until told to stop: then finish what is being written, within the grace.

    Raises:
        LMSteerError: the address is taken, or not this machine's.
    """
    settings = settings or ServerSettings()
    if not all(key.strip() for key in settings.keys):
        raise LMSteerError("a key is empty: it would let everybody in.")
    config = uvicorn.Config(
        app_of(service, settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=settings.grace,
        server_header=False,
    )
    with bound(settings.host, settings.port) as listening:
        uvicorn.Server(config).run(sockets=[listening])


def app_of(service: Service, settings: ServerSettings) -> FastAPI:
    """All that is answered: requests, and the web page if there is one."""
    app = create_app(service, keys=settings.keys, body_bytes=settings.body_bytes)
    return _with_page(app, service, settings.keys) if settings.page else app


def _with_page(app: FastAPI, service: Service, keys: Sequence[str]) -> FastAPI:
    """The web page at ``/ui``, where a browser that comes to ``/`` is sent."""
    import gradio as gr

    from lmsteer.serving.http.web import CSS, ICON, THEME, web_page

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("ui/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")

    def knows(_: str, said: str) -> bool:
        return is_key(said.encode(), keys)

    options: dict[str, Any] = {"auth": knows, "auth_message": "Any name, and a key."} if keys else {}
    return gr.mount_gradio_app(
        app, web_page(service), "/ui", theme=THEME, css=CSS, footer_links=[], ssr_mode=False, show_error=True, **options
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        LMSteerError: the address is taken, or not this machine's.
    """
    if not 0 <= port < 1 << 16:
        raise LMSteerError(f"cannot listen at {host}:{port}: ports end at 65535; choose another with --port.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # the latter of a name that is none
        raise LMSteerError(
            f"cannot listen at {host}:{port}: {error}; choose another with --host and --port."
        ) from error
    return listening
