"""Errors in the format that OpenAI's clients read: the message, the field at fault, and when to retry."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.isolation import StepError
from lmsteer.serving.engine.jobs import BusyError, StoppedError
from lmsteer.serving.http.schema.body import describe
from lmsteer.serving.http.schema.responses import ErrorBody, ErrorInfo
from lmsteer.util.escapes import printable

# Seconds.
RETRY_AFTER = 1
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(LMSteerError):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status.
        param: the field at fault, or None.
        code: OpenAI's short name of the error, or None.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def error_response(error: LMSteerError) -> tuple[int, ErrorBody]:
    """The HTTP status and the body for an error."""
    match error:
        case RequestError(status=status, param=param, code=code):
            return status, error_body(status, str(error), param, code)
        case BusyError():
            return 429, error_body(429, str(error), code="busy")
        case StoppedError():
            return 503, error_body(503, str(error), code="stopping")
        case StepError():
            return 500, error_body(500, str(error), code="step_failed")
    return 400, error_body(400, str(error))


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> ErrorBody:
    """An error in OpenAI's format."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorBody(error=ErrorInfo(message=message, type=kind, param=param, code=code))


def install_handlers(app: FastAPI) -> None:
    """Make an app answer all errors in this format."""

    @app.exception_handler(LMSteerError)
    async def known_error(request: Request, error: LMSteerError) -> JSONResponse:
        return respond(request.url.path, *error_response(error))

    @app.exception_handler(RequestValidationError)
    async def invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = dict(error.errors()[0])
        place, reason = describe({**first, "loc": first["loc"][1:]})  # the first part is "body"
        message = f"{place}: {reason}" if place else f"the body is not a valid request: {reason}"
        return respond(request.url.path, 400, error_body(400, message, place or None))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = _no_path(request.url.path, [*app.openapi()["paths"]])
        elif error.status_code == 405:
            message = _no_method(request, (error.headers or {}).get("Allow", ""))
        response = respond(request.url.path, error.status_code, error_body(error.status_code, message))
        response.headers.update(error.headers or {})
        return response


def _no_path(path: str, known: Sequence[str]) -> str:
    """What is said of a path that does not exist; above all of one without ``/v1``, or with two of them."""
    ends = [each for each in known if path.endswith(each.removeprefix("/v1"))]
    meant = [max(ends, key=len)] if ends else get_close_matches(path[:80], known, 1, 0.8)
    if meant:
        hint = " (the base URL of a client ends in /v1)" if meant[0].startswith("/v1") else ""
        return f"there is no path {printable(path[:80])} here; did you mean {meant[0]}{hint}?"
    return f"there is no path {printable(path[:80])} here: this server has {', '.join(known)}."


def _no_method(request: Request, allowed: str) -> str:
    """What is said of a method that a path does not have."""
    if request.method == "OPTIONS":
        return "pages of other origins may not use this server: start it with --allow-origin ORIGIN."
    return f"{request.method} is not possible at {request.url.path}: send {allowed}."


def respond(path: str, status: int, content: ErrorBody) -> JSONResponse:
    """The response with an error; Ollama's clients look for its message alone."""
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    is_ollama = path.startswith("/api/") and not path.startswith("/api/v1/")  # a base URL of OpenAI's with a mistake
    return JSONResponse({"error": content.error.message} if is_ollama else content.model_dump(), status, headers)
