"""The body of a request to calibrate a steer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat

from lmsteer.evaluation.protocol import CALIBRATION
from lmsteer.serving.http.schema.body import AS_WHOLE, Body


class CalibrateRequest(Body):
    """A steer whose safe range is to be found."""

    steer: Annotated[str, Field(min_length=1, max_length=256)]
    prompts: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(
            min_length=1,
            max_length=64,
            description="Texts to continue. Default: 60 neutral prompts, those of `lmsteer calibrate`.",
        ),
    ] = None
    max_perplexity_ratio: Annotated[
        FiniteFloat,
        Field(gt=1, description="Largest safe perplexity, as a multiple of that of unsteered text."),
    ] = 1.5
    max_tokens: Annotated[
        int, Field(ge=1, le=256, description="Maximum number of new tokens for each prompt and strength."), AS_WHOLE
    ] = CALIBRATION.max_new_tokens
    seed: Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1), AS_WHOLE] = CALIBRATION.seed
