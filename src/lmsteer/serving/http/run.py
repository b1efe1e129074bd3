"""Builds a service for a model and runs its HTTP server, from start to a graceful stop."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
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
from lmsteer.serving.starts.named import NamedStarts
from lmsteer.steer.lookup import SHIPPED_FOLDER, STEERS_FOLDER

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z*]+")


@dataclass(frozen=True)
class ServerSettings:
    """The settings of the HTTP server.

    Attributes:
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        keys: API keys, one of which each request must send; empty to accept all requests.
        body_bytes: maximum size of a request body, in bytes.
        grace: time to finish running responses after a signal to stop, in seconds.
        page: also serve the web page.
        origins: origins whose web pages may use the server from a browser, like ``http://localhost:3000``; ``*`` for
            all.

    Raises:
        LMSteerError: an origin is not one.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()
    body_bytes: int = 1 << 20
    grace: int = 20
    page: bool = True
    origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise LMSteerError(
                    f"{origin!r} is not an origin: write it as browsers do, like http://localhost:3000 (without a path "
                    "or a slash at the end, in lower case), or * for all."
                )


@dataclass(frozen=True)
class ServiceConfig:
    """The settings of a service.

    Attributes:
        engine: the limits of the engine.
        max_model_len: maximum number of tokens of a prompt and its new text together; None for the smaller one of the
            model's context and ``engine.max_cache_tokens``.
        max_choices: maximum number of sequences of one request.
        timeout: maximum time per sequence, in seconds.
        strict: refuse strengths outside the safe range.
        folders: folders of steers, searched in this order, and Hub ids of single steers.
        gists: folders of gists.
        baselines: folders of baselines.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    max_model_len: int | None = None
    max_choices: int = 64
    timeout: float = 120.0
    strict: bool = False
    folders: Sequence[str | Path] = (STEERS_FOLDER, SHIPPED_FOLDER)
    gists: Sequence[Path] = ()
    baselines: Sequence[Path] = ()


def create_service(lm: LM, config: ServiceConfig | None = None) -> Service:
    """A service of a model, with an engine of its own.

    Raises:
        LMSteerError: a setting is out of range.
        ModelError: the model cannot be served.
    """
    config = config or ServiceConfig()
    engine = config.engine
    for name, value in (
        ("max_num_seqs", engine.max_num_seqs),
        ("max_cache_tokens", engine.max_cache_tokens),
        ("timeout", config.timeout),
    ):
        if not value > 0:
            raise LMSteerError(f"{name} must be positive, not {value}.")
    if engine.max_queue < 0:
        raise LMSteerError(f"max_queue must be 0 or more, not {engine.max_queue}.")
    longest = min(lm.max_length, engine.max_cache_tokens)
    max_model_len = longest if config.max_model_len is None else config.max_model_len
    if not 2 <= max_model_len <= longest:
        raise LMSteerError(
            f"max_model_len must be between 2 and {longest}, not {max_model_len}: the model's context has "
            f"{lm.max_length} tokens and the KV cache {engine.max_cache_tokens}."
        )
    registry = SteerRegistry(config.folders, lambda card: card.check_base(lm))
    starts = NamedStarts(lm, config.gists, config.baselines)
    limits = RequestLimits(max_model_len, config.max_choices, config.timeout, config.strict)
    return Service(Engine(lm, engine), registry, starts, limits, lm.name)


def serve(
    service: Service, settings: ServerSettings | None = None, announce: Callable[[int], None] = lambda _: None
) -> None:
    """Answer requests until the process gets a signal to stop; then finish running responses, within ``grace`` seconds.

    Args:
        service: the service.
        settings: the settings of the server.
        announce: called with the port once connections to it are accepted.

    Raises:
        LMSteerError: the address is in use or does not belong to this machine, a key is empty, or it is called within
            ``lm.steered``, whose end the engine would wait for.
    """
    settings = settings or ServerSettings()
    if service.lm.exclusive_use().is_held_here:
        raise LMSteerError("a server cannot run within steered(): each request names its own steers.")
    if not all(key.strip() for key in settings.keys):
        raise LMSteerError("an API key is empty: everybody would know it.")
    config = uvicorn.Config(
        create_full_app(service, settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=settings.grace,
        server_header=False,
    )
    with bind(settings.host, settings.port) as listening:
        announce(listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def create_full_app(service: Service, settings: ServerSettings) -> FastAPI:
    """The app of a service, with the web page if the settings ask for it."""
    app = create_app(service, keys=settings.keys, origins=settings.origins, body_bytes=settings.body_bytes)
    return _with_page(app, service, settings.keys) if settings.page else app


def _with_page(app: FastAPI, service: Service, keys: Sequence[str]) -> FastAPI:
    """Mount the web page at ``/ui``; a browser that opens ``/`` is sent there."""
    import gradio as gr

    from lmsteer.serving.http.web.page import CSS, ICON, THEME, web_page

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("ui/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")

    def is_password(_: str, password: str) -> bool:
        return is_key(password.encode(), keys)

    options: dict[str, Any] = {"auth": is_password, "auth_message": "Any user name; an API key as password."}
    return gr.mount_gradio_app(
        app,
        web_page(service),
        "/ui",
        theme=THEME,
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        show_error=True,
        **(options if keys else {}),
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        LMSteerError: the address is in use, or does not belong to this machine.
    """
    if not 0 <= port < 1 << 16:
        raise LMSteerError(f"cannot listen at {host}:{port}: the largest port is 65535; choose another with --port.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
        raise LMSteerError(
            f"cannot listen at {host}:{port}: {error}; choose another with --host and --port."
        ) from error
    return listening
