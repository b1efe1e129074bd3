"""vLLM's custom logits processor, by which the strengths of a request reach its rows of the batch.

With the first model runner it changes no logits: it only says before each pass which row is which request. With the
second one it steers the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnerProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondRunnerProcessor

from lmsteer.errors import LMSteerError
from lmsteer.serving.vllm.after_head import AfterHead
from lmsteer.serving.vllm.asked import Asked
from lmsteer.serving.vllm.before_head import BeforeHead, SteeredRow
from lmsteer.serving.vllm.state import STATE
from lmsteer.serving.vllm.validation import parse_steering

# What a request asks log-likelihoods of its prompt by; not all versions of vLLM have both.
_OF_PROMPTS = ("prompt_logprobs", "prompt_logprob_token_ids")


class SteerLogitsProcessor(FirstRunnerProcessor, SecondRunnerProcessor):
    """One class for both model runners, since vLLM's entry point names one.

    Args:
        vllm_config: vLLM's configuration.
        device_or_states: the device (first runner), or the states of the requests (second runner).
        is_pin_memory: whether memory is pinned; the first runner alone says so.
    """

    _before: BeforeHead
    _after: AfterHead

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool = False) -> None:
        if isinstance(device_or_states, torch.device):
            self._before = STATE.steering = BeforeHead()
        else:
            raw = vllm_config.model_config.logprobs_mode.startswith("raw")
            states = device_or_states
            drafts = vllm_config.speculative_config is not None
            self._after = STATE.steering = AfterHead(
                states.max_num_reqs, states.device, lambda: states.prompt_len.gpu, raw=raw, in_parts=drafts
            )

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request that cannot be steered as it asks, before it is accepted.

        Raises:
            ValueError: the request is not valid; vLLM answers with status 400.
        """
        try:
            steered = bool(parse_steering(sampling_params.extra_args).steers)
        except LMSteerError as error:
            raise ValueError(str(error)) from error
        asked = (getattr(sampling_params, name, None) for name in _OF_PROMPTS)
        if steered and any(each is not None for each in asked):
            raise ValueError("log-likelihoods of the prompt are the unsteered model's: request them without steers.")

    def is_argmax_invariant(self) -> bool:
        """No: steers change the likeliest token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner, before each pass: rows were added, removed or moved."""
        process_dict_updates(self._before.rows, batch_update, _steered_row)
        self._before.announce(None if batch_update is None else batch_update.batch_size)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: a request takes a slot. Whether its rows have to come here."""
        return self._after.put(req_idx, _asked(sampling_params))

    def apply_staged_writes(self) -> None:
        """Second runner, before each pass: requests have come."""
        self._after.prepare()

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """First runner: check that the rows were steered. Second runner: steer the logits."""
        if ctx is None:
            self._before.check_acted()
            return logits
        return self._after.steer(logits, ctx)


def _steered_row(params: SamplingParams, _: Any, written: Sequence[int]) -> SteeredRow | None:
    """A row of the first runner; None if it is not steered."""
    asked = _asked(params)
    return asked and SteeredRow(asked, written)


def _asked(params: SamplingParams) -> Asked | None:
    """What an accepted request asks for; a steer that has been deleted since is used in its last version."""
    try:
        asked = parse_steering(params.extra_args, recall=True)
    except LMSteerError as error:
        raise RuntimeError(f"a request was accepted that cannot be steered: {error}") from error
    return asked if asked.steers else None
