"""An HTTP client for JSON that tells in words what is wrong with a server or its answer. It does not import torch."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lmsteer.errors import LMSteerError
from lmsteer.util.escapes import one_line
from lmsteer.util.records import FormatError, parse_json

# The most characters of a server's own message that are repeated.
_SHOWN = 300
# The most bytes of an answer that are read: log-probabilities of a few tokens take some kilobytes.
_MAX_BYTES = 16 << 20


class ServerError(LMSteerError):
    """A server that cannot be reached, or whose answer cannot be used."""


class RefusedError(ServerError):
    """A request that a server has refused.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class JsonClient:
    """A client of one server. Its methods may be called from any thread.

    Args:
        url: the server's address, with or without ``/v1`` at its end.
        key: the API key that it sends, if any.
        timeout: the longest silence of the server that it bears, in seconds.

    Attributes:
        url: the address without ``/v1``.

    Raises:
        ServerError: the address is none, or the key cannot be sent.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout, self._opener = timeout, build_opener(_NoRedirect)
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:  # a port that is no number
            is_address = False
        if key and not (key.isascii() and key.isprintable()):
            raise ServerError("the API key has characters that no request can send.")
        if not is_address or parts.query or parts.fragment:
            raise ServerError(f"{url!r} is no address of a server: write it like http://127.0.0.1:8000.")

    def get(self, path: str) -> Any:
        """The JSON value at a path.

        Raises:
            ServerError: the server cannot be reached, is silent for too long, or answers with something else.
        """
        return self._ask(path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON value that a path answers a JSON value with.

        Raises:
            ServerError: the server cannot be reached, is silent for too long, or answers with something else.
        """
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        where = self.url + path
        try:
            with self._opener.open(Request(where, body, self._headers), timeout=self._timeout) as response:
                content = response.read(_MAX_BYTES)
        except HTTPError as error:
            with error:
                raise _refusal(where, error) from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: characters that no address has
            raise self._failure(where, error) from error
        try:
            return parse_json(content)
        except FormatError as error:
            raise ServerError(f"{where} answers with something that is not JSON: no server of OpenAI's API?") from error

    def _failure(self, where: str, error: Exception) -> ServerError:
        """What a request without an answer means."""
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return ServerError(
                f"{where} does not answer within {self._timeout:g} seconds: the server may still start, or be busy; "
                "--timeout sets another time."
            )
        return ServerError(f"{where} cannot be reached: {one_line(str(reason) or type(reason).__name__)}.")


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect, since that would send the key to another server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Make no further request."""


def _refusal(where: str, error: HTTPError) -> RefusedError:
    """What an answer with the status of an error means."""
    if 300 <= error.code < 400:
        return RefusedError(f"{where} sends on to {error.headers.get('Location')}: name that server.", error.code)
    hint = " Name its key with --api-key." if error.code == 401 else ""
    said = one_line(_message(error))[:_SHOWN].rstrip(".")
    return RefusedError(f"{where} answers with status {error.code}: {said}.{hint}", error.code)


def _message(error: HTTPError) -> str:
    """The message in the body of an error, in the shape of OpenAI's servers; the status' own words otherwise."""
    try:
        return str(parse_json(error.read(_MAX_BYTES))["error"]["message"])
    except (OSError, HTTPException, FormatError, LookupError, TypeError):
        return error.reason
