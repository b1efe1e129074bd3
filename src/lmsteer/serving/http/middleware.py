"""What stands before the server: a limit on bodies, and keys."""

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
    """Refuses bodies as soon as more has come than they may have.

    Args:
        app: what stands behind.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, counting."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._most:
                raise HTTPException(413, f"the body is larger than {self._most:,} bytes.")
            return message

        await self._app(scope, counted, send)


def key_check(keys: Sequence[str]) -> Callable[..., Awaitable[None]]:
    """A dependency that lets through who knows one of the keys; all, where there are none."""

    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if keys and (given is None or not is_key(given.credentials.encode("latin-1"), keys)):
            raise RequestError("no valid key: send 'Authorization: Bearer KEY'.", status=401, code="invalid_api_key")

    return check


def is_key(said: bytes, keys: Sequence[str]) -> bool:
    """Whether it is one of the keys. All are compared, in constant time: how long it takes says nothing of them."""
    return sum(secrets.compare_digest(said, key.encode()) for key in keys) > 0
