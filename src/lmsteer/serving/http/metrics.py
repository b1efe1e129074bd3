"""Metrics of a server in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmsteer.serving.engine.engine import Engine
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.answer import Answer

# Upper limits of the histograms' buckets, in seconds.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class Metrics:
    """The metrics of one server.

    Args:
        engine: the server's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by path and status.", ("path", "status"))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.")
        self.tokens = self._counter("tokens", "Generated tokens.")
        self.steered_tokens = self._counter(
            "steered_tokens", "Generated tokens under a steer, by its name.", ("steer",)
        )
        self.first_token = self._histogram("first_token_seconds", "Time from the request to the first token.")
        self.seconds = self._histogram("request_seconds", "Time from the request to the end of the response.")
        for name, description, value in (
            ("running_sequences", "Sequences that are prefilled or decoded.", lambda: engine.running),
            ("waiting_sequences", "Sequences that wait for a place.", lambda: engine.waiting),
            ("cache_bytes", "Size of the KV cache.", lambda: engine.cache_bytes),
            ("steps", "Decoding steps so far.", lambda: engine.steps),
            (
                "prefix_tokens",
                "Prompt tokens so far that were kept from earlier prompts.",
                lambda: engine.prefix_tokens,
            ),
            ("preemptions", "Preempted sequences so far.", lambda: engine.preemptions),
        ):
            Gauge(f"lmsteer_{name}", description, registry=self._registry).set_function(value)

    async def counted(
        self, chunks: AsyncIterator[tuple[int, Chunk]], answer: Answer
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """The chunks of an answer, counted as they pass."""
        started = time.monotonic()
        acting = [name for name, strength in answer.parsed.steering.strengths.items() if strength]
        self.prompt_tokens.inc(answer.parsed.prompt_tokens)
        try:
            async for index, chunk in chunks:
                if chunk.tokens and not any(choice.tokens for choice in answer.choices):
                    self.first_token.observe(time.monotonic() - started)
                before = answer.choices[index]  # to which the caller adds the chunk afterwards
                self.tokens.inc(chunk.tokens - before.tokens)
                for name in acting:
                    self.steered_tokens.labels(name).inc(chunk.steered - before.steered)
                yield index, chunk
        finally:
            self.seconds.observe(time.monotonic() - started)

    def exposition(self) -> bytes:
        """All metrics as text."""
        return generate_latest(self._registry)

    def _counter(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"lmsteer_{name}", description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(f"lmsteer_{name}", description, registry=self._registry, buckets=_BUCKETS)


class RequestCounter:
    """Counts requests by path and status, failed ones included.

    Args:
        app: the next app.
        metrics: the metrics to count in.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it with the status of its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # Only known paths become labels: requests for other paths must not fill the memory.
            route: Any = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "other"), status).inc()
