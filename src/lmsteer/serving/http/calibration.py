"""Calibrations of steers: in pieces that take turns with decoding steps and with texts to analyse, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event, Lock
from typing import TypeVar

from lmsteer.data.chats import Prompt, as_prompt
from lmsteer.errors import DataError, LMSteerError
from lmsteer.evaluation.protocol import CALIBRATION
from lmsteer.evaluation.safe_range import Pieces, calibrate, neutral_prompts
from lmsteer.generation.generate import encode_prompts
from lmsteer.generation.writing import NotFiniteError
from lmsteer.serving.engine.isolation import StepError
from lmsteer.serving.engine.jobs import BusyError
from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.schema.calibration import CalibrateRequest
from lmsteer.serving.http.schema.responses import CalibrationInfo, TrialInfo
from lmsteer.serving.http.service import Service

T = TypeVar("T")
# The most prompts that are continued side by side: each step of theirs delays one of the running requests.
_ROWS = 16
# The most prompt tokens of a piece, which are read in one pass.
_TOKENS = 1024
# Seconds to wait for a place among the texts to analyse.
_RETRY_AFTER = 0.1


class CancelledError(LMSteerError):
    """Nobody waits for the calibration any longer."""

    def __init__(self) -> None:
        super().__init__("the calibration was cancelled.")


class Calibrations:
    """The calibrations of a service.

    Args:
        service: the service.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._running = service, Lock()

    def run(self, request: CalibrateRequest, cancelled: Event) -> CalibrationInfo:
        """Find the safe range of a steer. It takes minutes: call it from a thread.

        Args:
            request: the request.
            cancelled: set once nobody waits for it any longer; it ends after the piece that runs.

        Raises:
            RequestError: the steer is unknown, or the prompts are too long.
            BusyError: another steer is being calibrated.
            StepError: the unsteered model's logits are not finite numbers.
            StoppedError: the server is stopping.
            CancelledError: it was cancelled.
        """
        if not self._running.acquire(blocking=False):
            raise BusyError("another steer is being calibrated: one at a time.")
        try:
            return self._calibrate(request, cancelled)
        finally:
            self._running.release()

    def _calibrate(self, request: CalibrateRequest, cancelled: Event) -> CalibrationInfo:
        lm, steer = self._service.lm, self._service.steer(request.steer, "steer")
        given = neutral_prompts(lm) if request.prompts is None else request.prompts
        prompts = [as_prompt(prompt) for prompt in given]
        rows = self._rows_of_a_piece(prompts, request.max_tokens)
        protocol = replace(CALIBRATION, max_new_tokens=request.max_tokens, seed=request.seed)

        def run(piece: Callable[[], T]) -> T:
            return self._in_turn(piece, cancelled)

        try:
            found = calibrate(
                lm,
                steer,
                prompts,
                max_perplexity_ratio=request.max_perplexity_ratio,
                protocol=protocol,
                pieces=Pieces(run, rows),
            )
        except NotFiniteError as error:  # at strength 0: no fault of the request
            raise StepError(str(error)) from error
        curve = [TrialInfo.model_validate(trial.rounded()) for trial in found.trials]
        return CalibrationInfo(
            steer=request.steer,
            safe_range=(found.low, found.high),
            max_perplexity_ratio=found.max_perplexity_ratio,
            curve=curve,
        )

    def _rows_of_a_piece(self, prompts: Sequence[Prompt], new_tokens: int) -> int:
        """How many prompts are continued side by side; long ones are refused."""
        service = self._service
        longest = service.limits.max_model_len
        most = min(_TOKENS, longest - new_tokens)
        if most < 1:
            reason = f"max_tokens is {new_tokens}, but a prompt and its new text have {longest} tokens at most here."
            raise RequestError(reason, param="max_tokens")
        try:
            lengths = [*map(len, encode_prompts(service.lm, prompts, new_tokens))]
        except DataError as error:
            raise RequestError(str(error), param="prompts") from error
        for number, length in enumerate(lengths, 1):
            if length > most:
                raise RequestError(f"prompt {number} has {length} tokens, more than {most}.", param="prompts")
        return max(1, min(_ROWS, _TOKENS // max(lengths)))

    def _in_turn(self, piece: Callable[[], T], cancelled: Event) -> T:
        """Run a piece once its turn among the jobs of the engine has come."""

        def unless_cancelled() -> T:
            if cancelled.is_set():
                raise CancelledError
            return piece()

        while True:
            try:
                return self._service.engine.call(unless_cancelled).result()
            except BusyError:
                if cancelled.wait(_RETRY_AFTER):
                    raise CancelledError from None
