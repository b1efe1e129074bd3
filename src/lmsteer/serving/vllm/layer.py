"""vLLM's LogitsProcessor layer, which every model calls for its logits, with steers before the head."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from lmsteer.errors import ModelError, SteerError
from lmsteer.model.head import HeadShard
from lmsteer.model.head_file import read_head_sample
from lmsteer.serving.vllm.state import STATE
from lmsteer.serving.vllm.validation import registry


class SteeredLogitsProcessor(LogitsProcessor):
    """vLLM's own layer, which steers the sampled rows. Everything after the head is vLLM's.

    Raises:
        SteerError: speculative decoding is on, whose drafts would not be steered, or a steer has another shape.
        WrongBaseError: a steer belongs to another model of the same shape. If the model's files cannot be read, the
            first forward pass raises it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config = get_current_vllm_config()
        if config.speculative_config is not None:
            raise SteerError("steers do not work with speculative decoding: the drafts would not be steered.")
        self._checked = False
        hidden_size = config.model_config.get_hidden_size()
        steers = [registry().find(name) for name in registry().names()]
        for steer in steers:
            steer.check_head_alone("vLLM")
            if (steer.hidden_size, steer.vocabulary) != (hidden_size, self.org_vocab_size):
                raise SteerError(
                    f"steer {steer.card.name!r} is for hidden size {steer.hidden_size} and vocabulary "
                    f"{steer.vocabulary}, but the model has {hidden_size} and {self.org_vocab_size}."
                )
        with suppress(ModelError):  # the files are of a kind that lmsteer does not read: the first pass checks
            sample = read_head_sample(config.model_config.model)
            for steer in steers:
                steer.card.check_head(sample)
            self._checked = True

    def _apply_head(self, lm_head: Any, hidden_states: Tensor, embedding_bias: Tensor | None) -> Tensor:
        indices = lm_head.shard_indices
        first, last = indices.org_vocab_start_index, indices.org_vocab_end_index
        shard = HeadShard(lm_head.weight, first, last, self.org_vocab_size, self.scale, self.soft_cap)
        if not self._checked:
            for name in registry().names():
                shard.check(registry().find(name))
            self._checked = True
        mix = STATE.before_head(hidden_states, shard)
        if mix is None:
            return super()._apply_head(lm_head, hidden_states, embedding_bias)
        logits = super()._apply_head(lm_head, mix.steer_hidden_states(hidden_states), embedding_bias)
        if any(steer.form == "offset" for steer in mix.steers.values()):
            offsets = mix.steer_logits(torch.zeros(len(logits), shard.rows, device=logits.device))
            logits[:, : last - first] += offsets[:, first:last].to(logits.dtype)
        return logits
