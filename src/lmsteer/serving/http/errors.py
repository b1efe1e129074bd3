"""Failures in the shape that OpenAI's clients read: what was wrong, with which field, and when to come again."""

from __future__ import annotations

import logging
from itertools import takewhile

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.engine import BusyError, StepError, StoppedError
from lmsteer.serving.http.schema import ErrorBody, ErrorInfo

RETRY_AFTER = 1
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_log = logging.getLogger(__name__)


class RequestError(LMSteerError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP.
        param: the field at fault.
        code: OpenAI's short name of the fault.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def answer_to(error: LMSteerError) -> tuple[int, ErrorBody]:
    """Status and body."""
    match error:
        case RequestError(status=status, param=param, code=code):
            return status, body(status, str(error), param, code)
        case BusyError():
            return 429, body(429, str(error), code="busy")
        case StoppedError():
            return 503, body(503, str(error), code="stopping")
        case StepError():
            return 500, body(500, str(error), code="step_failed")
    return 400, body(400, str(error))


def body(status: int, message: str, param: str | None = None, code: str | None = None) -> ErrorBody:
    """The shape that OpenAI's clients read."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorBody(error=ErrorInfo(message=message, type=kind, param=param, code=code))


def install(app: FastAPI) -> None:
    """Have an app answer all failures so."""

    @app.exception_handler(LMSteerError)
    async def refused(_: Request, error: LMSteerError) -> JSONResponse:
        return _response(*answer_to(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            what = f"{first['ctx']['error']}, at character {first['loc'][-1]}"
            return _response(400, body(400, f"the body is no JSON: {what}."))
        # Behind the field pydantic names which of several types it tried.
        place = ".".join(str(part) for part in takewhile(_is_field, first["loc"][1:]))
        message = f"{place}: {first['msg']}" if place else f"the body cannot be read: {first['msg']}"
        return _response(400, body(400, message, place or None))

    @app.exception_handler(HTTPException)
    async def missed(_: Request, error: HTTPException) -> JSONResponse:
        response = _response(error.status_code, body(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        _log.error("a request failed", exc_info=error)
        return _response(500, body(500, "the server failed at this request; its log says how."))


def _is_field(part: object) -> bool:
    return isinstance(part, int) or (isinstance(part, str) and part.isidentifier() and part not in ("str", "float"))


def _response(status: int, content: ErrorBody) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    return JSONResponse(content.model_dump(), status, headers)
