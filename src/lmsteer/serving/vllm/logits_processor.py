"""The router: vLLM's custom logits processor, by which a request's strengths find its row.

It looks at no logits of the first model runner: there it only says, before each pass, which row is whose.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as ByRow
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as BySlot

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.serving.vllm.state import DIAL
from lmsteer.serving.vllm.validation import FOLDERS, asked
from lmsteer.steer.mix import Steering


class SteerLogitsProcessor(ByRow, BySlot):
    """For both model runners, which tell themselves apart by what they construct it with."""

    def __init__(self, vllm_config: Any, *given: Any) -> None:
        DIAL.late = len(given) == 1  # request states; the first runner gives a device and whether memory is pinned
        if DIAL.late and os.environ.get(FOLDERS) and vllm_config.model_config.logprobs_mode.startswith("raw"):
            raise SteerError(
                "with this model runner log-likelihoods would be the unsteered model's: start vLLM with "
                "--logprobs-mode processed_logprobs, or with VLLM_USE_V2_MODEL_RUNNER=0."
            )

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request that cannot be steered as it asks, at admission.

        Raises:
            ValueError: which vLLM answers with status 400.
        """
        try:
            _, strengths = asked(sampling_params.extra_args)
        except LMSteerError as error:
            raise ValueError(str(error)) from error
        if strengths and sampling_params.prompt_logprobs is not None:
            raise ValueError("log-likelihoods of the prompt are the unsteered model's: ask for them without steers.")

    def is_argmax_invariant(self) -> bool:
        """No: greedy rows are steered as well."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner, before each pass: rows came, left and moved."""
        process_dict_updates(DIAL.rows, batch_update, lambda params, *_: _setting(params))
        DIAL.arm(None if batch_update is None else batch_update.batch_size)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: a request takes a slot."""
        DIAL.rows.pop(req_idx, None)
        setting = _setting(sampling_params)
        if setting is not None:
            DIAL.rows[req_idx] = setting
        return setting is not None

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """First runner: nothing is left to do. Second runner: steer, now that it is known which row is whose."""
        if ctx is None:
            DIAL.check_acted()
            return logits
        return DIAL.after_head(logits, ctx.expanded_idx_mapping.tolist()) if DIAL.rows else logits


def _setting(params: SamplingParams) -> Steering | None:
    """What was admitted; it could be read then, and a steer that was taken away since is the one that was there."""
    try:
        dialled = asked(params.extra_args, recall=True)
    except LMSteerError as error:
        raise RuntimeError(f"a request was admitted that cannot be steered: {error}") from error
    return dialled if dialled[0] else None
