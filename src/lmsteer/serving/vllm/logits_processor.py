"""vLLM's custom logits processor, by which the strengths of a request reach its row of the batch.

With the first model runner it changes no logits: it only says before each pass which row is which request. With the
second one it steers the logits.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnerProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondRunnerProcessor

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.serving.vllm.state import STATE
from lmsteer.serving.vllm.validation import FOLDERS, parse_steering
from lmsteer.steer.mix import Steering


class SteerLogitsProcessor(FirstRunnerProcessor, SecondRunnerProcessor):
    """One class for both model runners, since vLLM's entry point names one.

    Args:
        vllm_config: vLLM's configuration.
        device_or_states: the device (first runner), or the states of the requests (second runner).
        is_pin_memory: whether memory is pinned; the first runner alone says so.

    Raises:
        SteerError: vLLM's settings would report log-likelihoods of the unsteered model.
    """

    def __init__(self, vllm_config: Any, device_or_states: torch.device | object, is_pin_memory: bool = False) -> None:
        STATE.after_head = not isinstance(device_or_states, torch.device)
        raw = STATE.after_head and os.environ.get(FOLDERS) and vllm_config.model_config.logprobs_mode.startswith("raw")
        if raw:
            raise SteerError(
                "with this model runner log-likelihoods would be the unsteered model's: start vLLM with "
                "--logprobs-mode processed_logprobs, or with VLLM_USE_V2_MODEL_RUNNER=0."
            )

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request that cannot be steered as it asks, before it is accepted.

        Raises:
            ValueError: the request is not valid; vLLM answers with status 400.
        """
        try:
            _, strengths = parse_steering(sampling_params.extra_args)
        except LMSteerError as error:
            raise ValueError(str(error)) from error
        if strengths and sampling_params.prompt_logprobs is not None:
            raise ValueError("log-likelihoods of the prompt are the unsteered model's: request them without steers.")

    def is_argmax_invariant(self) -> bool:
        """No: steers change the likeliest token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner, before each pass: rows were added, removed or moved."""
        process_dict_updates(STATE.rows, batch_update, lambda params, *_: _steering(params))
        STATE.announce(None if batch_update is None else batch_update.batch_size)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: a request takes a slot."""
        STATE.rows.pop(req_idx, None)
        steering = _steering(sampling_params)
        if steering is not None:
            STATE.rows[req_idx] = steering
        return steering is not None

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """First runner: check that the rows were steered. Second runner: steer the logits."""
        if ctx is None:
            STATE.check_acted()
            return logits
        return STATE.steer_logits(logits, ctx.expanded_idx_mapping.tolist()) if STATE.rows else logits


def _steering(params: SamplingParams) -> Steering | None:
    """The steers of an accepted request; a steer that has been deleted since is used in its last version."""
    try:
        steering = parse_steering(params.extra_args, recall=True)
    except LMSteerError as error:
        raise RuntimeError(f"a request was accepted that cannot be steered: {error}") from error
    return steering if steering[0] else None
