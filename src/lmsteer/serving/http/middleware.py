"""Checks before a request is handled: the size of its body, and the API key."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmsteer.serving.http.errors import RequestError


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
