"""The path that calibrates a steer."""

from __future__ import annotations

from threading import Event

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from lmsteer.serving.http.calibration import Calibrations
from lmsteer.serving.http.middleware import CLIENT_CLOSED
from lmsteer.serving.http.schema.calibration import CalibrateRequest
from lmsteer.serving.http.schema.responses import CalibrationInfo
from lmsteer.serving.http.sending import unless_disconnected


def add_calibration(router: APIRouter, calibrations: Calibrations) -> None:
    """Add the path to a router."""

    @router.post("/calibrate", response_model=CalibrationInfo)
    async def calibrate(body: CalibrateRequest, request: Request) -> Response:
        """Find the strengths at which a steer's text stays sound, as `lmsteer calibrate` does; nothing is saved."""
        cancelled = Event()
        try:
            found = await unless_disconnected(request, run_in_threadpool(calibrations.run, body, cancelled))
        finally:
            cancelled.set()
        return Response(status_code=CLIENT_CLOSED) if found is None else JSONResponse(found.model_dump())
