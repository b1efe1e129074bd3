"""The layer: vLLM's LogitsProcessor, which every model calls for its logits, with a dial in front of the head."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from lmsteer.errors import ModelError, SteerError
from lmsteer.model.head import HeadShard
from lmsteer.model.head_file import read_head
from lmsteer.serving.vllm.state import DIAL
from lmsteer.serving.vllm.validation import shelf


class SteeredLogitsProcessor(LogitsProcessor):
    """vLLM's own, which steers the rows that are sampled from. Of what comes after the head nothing changes.

    Raises:
        SteerError: speculative decoding, whose drafts would not be steered; steers of another model's shape.
        WrongBaseError: steers of another model of the same shape; in the first pass, where its files cannot be read.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config = get_current_vllm_config()
        if config.speculative_config is not None:
            raise SteerError("steers and speculative decoding do not go together: drafts would be of another model.")
        self._proved = False
        hidden_size = config.model_config.get_hidden_size()
        for steer in (shelf().find(name) for name in shelf().names()):
            if (steer.hidden_size, steer.vocabulary) != (hidden_size, self.org_vocab_size):
                raise SteerError(
                    f"steer {steer.card.name!r} is for hidden size {steer.hidden_size} and vocabulary "
                    f"{steer.vocabulary}, but the model has {hidden_size} and {self.org_vocab_size}."
                )
        with suppress(ModelError):  # of a kind of file that lmsteer does not read: then the first pass tells
            weight = read_head(config.model_config.model).weight
            self._prove_all(HeadShard(weight, 0, len(weight), len(weight)))

    def _prove_all(self, part: HeadShard) -> None:
        """Refuse steers of another base."""
        for name in shelf().names():
            part.check(shelf().find(name))
        self._proved = True

    def _apply_head(self, lm_head: Any, hidden_states: Tensor, embedding_bias: Tensor | None) -> Tensor:
        shard = lm_head.shard_indices
        first, last = shard.org_vocab_start_index, shard.org_vocab_end_index
        part = HeadShard(lm_head.weight, first, last, self.org_vocab_size, self.scale, self.soft_cap)
        if not self._proved:
            self._prove_all(part)
        mix = DIAL.before_head(hidden_states, part)
        if mix is None:
            return super()._apply_head(lm_head, hidden_states, embedding_bias)
        logits = super()._apply_head(lm_head, mix.steer_hidden_states(hidden_states), embedding_bias)
        if any(steer.form == "offset" for steer in mix.steers.values()):
            zeros = torch.zeros(len(logits), part.rows, device=logits.device)
            logits[:, : part.last - part.first] += mix.steer_logits(zeros)[:, part.first : part.last].to(logits.dtype)
        return logits
