"""Reads bodies as JSON, whatever type a client says that they have; what is not JSON is refused with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.schema.body import shown
from lmsteer.util.escapes import printable
from lmsteer.util.records import DuplicateKeyError, unique_keys

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRoute(APIRoute):
    """A path whose bodies are JSON objects."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the path's requests."""
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            return await handle(await _read(request) if request.method == "POST" else request)

        return read_and_handle


class _JsonRequest(Request):
    """A request whose body has been read as JSON."""

    def __init__(self, request: Request, content: bytes, fields: dict[str, Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._content, self._fields = content, fields

    @property
    def headers(self) -> Headers:
        """The headers, in which the body's type is JSON."""
        return Headers({**super().headers, "content-type": "application/json"})

    async def body(self) -> bytes:
        """The body as it was sent."""
        return self._content

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        return self._fields


async def _read(request: Request) -> _JsonRequest:
    """A request with its body.

    Raises:
        RequestError: the body is not a JSON object, is compressed, or has a type that web pages may send to any server.
    """
    content, kind = await request.body(), request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(f"the body is compressed ({encoding}): send it as it is.", status=415)
    # A browser asks a server of another origin before it sends JSON there; it sends text and forms without asking.
    if "origin" in request.headers and not _is_json(kind):
        raise RequestError("a web page must send the header 'Content-Type: application/json'.", status=415)
    if kind in _FORMS and not content.lstrip().startswith((b"{", b"[")):  # curl says "form" of all that it sends
        raise RequestError(f"the body is a form ({kind}): send a JSON object.", status=415)
    return _JsonRequest(request, content, parse_object(content))


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 (or UTF-16 or 32).

    Raises:
        RequestError: it is something else, is nested too deeply, has a field twice, or holds half of a character.
    """
    if not body.strip():
        raise RequestError("the body is empty: send a JSON object.")
    try:
        value = json.loads(body, object_pairs_hook=unique_keys)
        if _HALF_CHARACTER.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg}, at character {error.pos}") from error
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not {error.encoding.upper()}, at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise RequestError("the body holds half of a character (a lone surrogate): send whole characters.") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply.") from error
    except DuplicateKeyError as error:
        message = f"the field {shown(error.key)} is there twice: send it once."
        raise RequestError(message, param=printable(error.key[:60])) from error
    except ValueError as error:
        raise RequestError("the body holds a number of thousands of digits: send one of at most 4,300.") from error
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, not {shown(value)}.")
    return value


def _not_json(reason: str) -> RequestError:
    return RequestError(f"the body is not valid JSON: {reason}.")


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
