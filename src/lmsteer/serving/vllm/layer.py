"""vLLM's LogitsProcessor layer, which every model calls for its logits, with steers before the head or after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.compilation import backends
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from lmsteer.errors import ModelError, SteerError
from lmsteer.model.head import HeadShard
from lmsteer.model.head_file import read_head_sample
from lmsteer.serving.vllm.after_head import HeadPass
from lmsteer.serving.vllm.before_head import BeforeHead, LimitedRows
from lmsteer.serving.vllm.state import STATE
from lmsteer.serving.vllm.validation import registry

# What vLLM calls the model while it is built; draft models have other names.
_MODEL = "backbone"


class SteeredLogitsProcessor(LogitsProcessor):
    """vLLM's own layer. Everything but the steering is vLLM's.

    With the first model runner it steers the rows that are sampled. With the second one it keeps what the head was
    given, and the logits are steered later.

    Raises:
        SteerError: vLLM's settings let some logits not be steered, or a steer has another shape.
        WrongBaseError: a steer belongs to another model of the same shape. If the model's files cannot be read, the
            first forward pass raises it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config = get_current_vllm_config()
        # A draft model has this layer, too: its logits are not steered, and its shape may be another one.
        self._is_draft = self._checked = backends.model_tag != _MODEL
        if not self._is_draft:
            _check_settings(config)
            self._check_steers(config.model_config)

    def _check_steers(self, model_config: Any) -> None:
        """Refuse steers of another model, as far as its files say."""
        hidden_size = model_config.get_hidden_size()
        steers = [registry().find(name) for name in registry().names()]
        for steer in steers:
            if (steer.hidden_size, steer.vocabulary) != (hidden_size, self.org_vocab_size):
                raise SteerError(
                    f"steer {steer.card.name!r} is for hidden size {steer.hidden_size} and vocabulary "
                    f"{steer.vocabulary}, but the model has {hidden_size} and {self.org_vocab_size}."
                )
        with suppress(ModelError):  # the files are of a kind that lmsteer does not read: the first pass checks
            sample = read_head_sample(model_config.model)
            for steer in steers:
                steer.card.check_head(sample)
            self._checked = True

    def forward(
        self, lm_head: Any, hidden_states: Tensor, embedding_bias: Tensor | None = None, skip_gather: bool = False
    ) -> Tensor | None:
        """The logits (B, V) of hidden states (B, d). vLLM's layer for LoRAs calls this with itself as ``self``."""
        if getattr(self, "_is_draft", False):
            return LogitsProcessor.forward(self, lm_head, hidden_states, embedding_bias, skip_gather)
        post, raw = (
            partial(_scaled_and_capped, self),
            self._get_logits(hidden_states, lm_head, embedding_bias, skip_gather),
        )
        base_head = getattr(lm_head, "base_layer", lm_head)
        if isinstance(STATE.steering, BeforeHead):
            return _limited_logits(self, base_head, raw, post, STATE.steering.take_limited(), skip_gather=skip_gather)
        if raw is None:
            return None
        logits = post(raw)
        head = _shard(base_head, self.org_vocab_size)
        gather, capped = partial(_gathered, self, head), self.soft_cap is not None
        STATE.steering.remember(HeadPass(hidden_states, head, raw if capped else None, logits, post, gather))
        return logits

    def _apply_head(self, lm_head: Any, hidden_states: Tensor, embedding_bias: Tensor | None) -> Tensor:
        shard = _shard(lm_head, self.org_vocab_size)
        if not self._checked:
            for name in registry().names():
                shard.check(registry().find(name))
            self._checked = True
        mix = STATE.steering.mix(hidden_states, shard) if isinstance(STATE.steering, BeforeHead) else None
        if mix is None:
            return super()._apply_head(lm_head, hidden_states, embedding_bias)
        logits = super()._apply_head(lm_head, mix.steer_hidden_states(hidden_states), embedding_bias)
        used = zip(mix.steers.values(), mix.strengths.T, strict=True)
        if any(steer.form == "offset" and bool(strengths.any()) for steer, strengths in used):
            offsets = mix.steer_logits(torch.zeros(len(logits), shard.rows, device=logits.device))
            logits[:, : shard.last - shard.first] += offsets[:, shard.first : shard.last].to(logits.dtype)
        return logits


def _limited_logits(
    layer: Any,
    head: Any,
    raw: Tensor | None,
    post: Callable[[Tensor], Tensor],
    limited: LimitedRows | None,
    *,
    skip_gather: bool,
) -> Tensor | None:
    """The logits (B, V) of raw ones, of which some rows are limited; None where another process has them."""
    if limited is None:
        return None if raw is None else post(raw)
    # Each process takes part in this product.
    shift = getattr(layer, "base_layer", layer)._get_logits(limited.shift, head, None, skip_gather)
    if raw is None:
        return None
    found = limited.logits(raw, shift, post)
    logits = post(raw).float()  # in 16 bits, words that a limit rules out would be alike
    logits[limited.places] = found
    return logits


def _check_settings(config: Any) -> None:
    """Refuse settings of vLLM under which some logits would not be steered."""
    if config.speculative_config is not None and not config.use_v2_model_runner:
        raise SteerError(
            "with vLLM's first model runner steers do not work with speculative decoding. vLLM's log says why it does "
            "not take the second one, unless VLLM_USE_V2_MODEL_RUNNER=0 asked for the first. Or leave out the "
            "speculative config."
        )
    if config.parallel_config.enable_batch_sharded_sampling:
        raise SteerError("steers do not work with batch-sharded sampling: leave out --enable-batch-sharded-sampling.")


def _shard(lm_head: Any, rows: int) -> HeadShard:
    """The rows of E that this process holds."""
    indices = lm_head.shard_indices
    return HeadShard(lm_head.weight, indices.org_vocab_start_index, indices.org_vocab_end_index, rows)


def _scaled_and_capped(layer: Any, raw: Tensor) -> Tensor:
    """What vLLM's own layer makes of raw logits, with the model's scale and soft cap; it may work in place."""
    own = SimpleNamespace(logits_as_input=True, scale=layer.scale, soft_cap=layer.soft_cap)
    logits: Tensor = LogitsProcessor.forward(own, None, raw)
    return logits


def _gathered(layer: Any, head: HeadShard, part: Tensor) -> Tensor:
    """The columns (.., V) of all processes of those of this one, as vLLM joins logits."""
    own = getattr(layer, "base_layer", layer)
    whole: Tensor = part if head.is_whole else own._gather_logits(part)
    return whole[..., : head.rows]
