"""Around the handling of a request: its path, the size of its body, the API key, and faults of the program."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmsteer.serving.http.errors import RequestError, error_body, respond

_log = logging.getLogger(__name__)
# Status for a client that has hung up; it appears in the metrics alone.
CLIENT_CLOSED = 499
# Paths of the API: with slashes too many, a path is meant without them.
_OURS = re.compile(r"/+(v1|api|health|metrics)(/.*)?")


class PathCleaner:
    """Takes the slashes out of a path that are too many, and answers HEAD wherever GET is answered.

    Args:
        app: the next app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the path and the method that were meant."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, is_head = scope["path"], scope["method"] == "HEAD"
        if _OURS.fullmatch(path):
            path = re.sub("/+", "/", path).rstrip("/")

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        meant = {**scope, "path": path, "method": "GET" if is_head else scope["method"]}
        await self._app(meant, receive, without_body if is_head else send)


class FaultAnswer:
    """Answers with status 500 where the program fails; it stands within the middleware that adds headers.

    Args:
        app: the next app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:  # within its body: nobody reads the answer, and the metrics count it
            await Response(status_code=CLIENT_CLOSED)(scope, receive, send)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            _log.error("a request failed", exc_info=error)
            body = error_body(500, "the server failed on this request; see its log.")
            await respond(scope["path"], 500, body)(scope, receive, send)


class BodyLimit:
    """Refuses a request with status 413 as soon as its body exceeds a limit.

    Args:
        app: the next app.
        max_bytes: the limit in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"the body is larger than {self._max_bytes:,} bytes.")
            return message

        await self._app(scope, counting, send)


def key_check(keys: Sequence[str]) -> Callable[..., Awaitable[None]]:
    """A dependency that refuses requests without one of the keys; it accepts all requests if there are no keys."""

    async def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if keys and (credentials is None or not is_key(credentials.credentials.encode("latin-1"), keys)):
            raise RequestError("no valid key: send 'Authorization: Bearer KEY'.", status=401, code="invalid_api_key")

    return check


def is_key(key: bytes, keys: Sequence[str]) -> bool:
    """Whether ``key`` is one of the keys. It is compared with all of them in constant time, so time reveals nothing."""
    return sum(secrets.compare_digest(key, each.encode()) for each in keys) > 0
