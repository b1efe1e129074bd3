"""Figures of a server, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmsteer.serving.engine.engine import Engine
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.responses import ResponseBuilder

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class Metrics:
    """Counters of one server.

    Args:
        engine: what is looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by path and status.", ("path", "status"))
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.tokens = self._counter("tokens", "Tokens written.")
        self.steered_tokens = self._counter("steered_tokens", "Tokens written under a steer, by its name.", ("steer",))
        self.first_token = self._histogram("first_token_seconds", "From request to first token.")
        self.seconds = self._histogram("request_seconds", "From request to the end of its answer.")
        for name, what, read in (
            ("rows", "Rows being written.", lambda: engine.running),
            ("waiting_rows", "Rows that wait.", lambda: engine.waiting),
            ("cache_bytes", "Keys and values of all rows.", lambda: engine.bytes),
            ("steps", "Forward passes so far.", lambda: engine.steps),
        ):
            Gauge(f"lmsteer_{name}", what, registry=self._registry).set_function(read)

    async def watched(
        self, pieces: AsyncIterator[tuple[int, Chunk]], wording: ResponseBuilder
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """An answer's pieces, counted as they pass."""
        started = time.monotonic()
        acting = [name for name, strength in wording.job.dial.strengths.items() if strength]
        self.prompt_tokens.inc(wording.job.prompt_tokens)
        try:
            async for place, piece in pieces:
                if not any(choice.tokens for choice in wording.choices):
                    self.first_token.observe(time.monotonic() - started)
                before = wording.choices[place]  # which takes the piece in afterwards
                self.tokens.inc(piece.tokens - before.tokens)
                for name in acting:
                    self.steered_tokens.labels(name).inc(piece.steered - before.steered)
                yield place, piece
        finally:
            self.seconds.observe(time.monotonic() - started)

    def exposition(self) -> bytes:
        """All of them, as text."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"lmsteer_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(f"lmsteer_{name}", what, registry=self._registry, buckets=_SECONDS)


class Counted:
    """Counts requests by path and status, whatever becomes of them.

    Args:
        app: what stands behind.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and note what was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = "500"  # which is answered further out
            raise
        finally:
            # Only paths that there are make labels: whoever asks for others cannot fill the memory.
            route: Any = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "other"), status).inc()
