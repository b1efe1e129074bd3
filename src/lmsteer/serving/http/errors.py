"""Errors in the format that OpenAI's clients read: the message, the field at fault, and when to retry."""

from __future__ import annotations

import logging
from itertools import takewhile

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.engine import BusyError, StepError, StoppedError
from lmsteer.serving.http.schema.responses import ErrorBody, ErrorInfo

# Seconds.
RETRY_AFTER = 1
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_log = logging.getLogger(__name__)


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
    async def known_error(_: Request, error: LMSteerError) -> JSONResponse:
        return _response(*error_response(error))

    @app.exception_handler(RequestValidationError)
    async def invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = f"{first['ctx']['error']}, at character {first['loc'][-1]}"
            return _response(400, error_body(400, f"the body is not valid JSON: {reason}."))
        # Behind the field's name pydantic adds the type that it tried, for fields of several types.
        place = ".".join(str(part) for part in takewhile(_is_field, first["loc"][1:]))
        message = f"{place}: {first['msg']}" if place else f"the body is not a valid request: {first['msg']}"
        return _response(400, error_body(400, message, place or None))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        response = _response(error.status_code, error_body(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unknown_error(_: Request, error: Exception) -> JSONResponse:
        _log.error("a request failed", exc_info=error)
        return _response(500, error_body(500, "the server failed on this request; see its log."))


def _is_field(part: object) -> bool:
    return isinstance(part, int) or (isinstance(part, str) and part.isidentifier() and part not in ("str", "float"))


def _response(status: int, content: ErrorBody) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    return JSONResponse(content.model_dump(), status, headers)
