"""Steers as LoRAs, for those at linear layers, and for servers whose plugins must not touch hidden states.

vLLM asks a resolver for adapters that it does not know. For a model named ``sentiment@2.5`` this one writes the steer
at that strength as an adapter. vLLM needs ``--enable-lora``, ``--max-lora-rank`` of at least the steer's rank, and, for
steers of the head, a model whose head adapters may change.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedModel
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.export.peft import write_lora
from lmsteer.model.fingerprints import head_sample, tensors_fingerprint
from lmsteer.model.head import HeadWeight
from lmsteer.model.head_file import read_head, read_skeleton
from lmsteer.serving.vllm.adapter_cache import adapters_folder
from lmsteer.serving.vllm.validation import registry
from lmsteer.steer.algebra import merge
from lmsteer.steer.mix import Mix
from lmsteer.steer.notation import of_model_name
from lmsteer.steer.strength import constant

# Each adapter has the size of the vocabulary times the rank, and each combination of strengths needs one. Those of
# other processes are deleted when there are more than ``_MAX_KEPT``; those of this process stay, as vLLM may read them
# again at any time, but there are at most ``_MAX_OWN``.
_MAX_KEPT = 32
_MAX_OWN = 256
_own: set[Path] = set()
_log = logging.getLogger(__name__)


class SteerResolver(LoRAResolver):
    """Resolves model names like ``sentiment@2.5``, or ``sentiment@2.5+toxicity@1``."""

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter for a name; None if it is not a steer at a strength, for which vLLM answers with status 404."""
        if "@" not in lora_name:
            return None
        try:
            folder = await asyncio.to_thread(_adapter_for, base_model_name, lora_name)
        except LMSteerError as error:
            _log.warning("no adapter for %r: %s", lora_name, error)
            return None
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))  # vLLM sets the number itself


def adapter(head: HeadWeight, skeleton: PreTrainedModel, mix: Mix) -> Path:
    """The folder of a mix as an adapter; it is written at the first call.

    Args:
        head: the model's head.
        skeleton: its modules (``read_skeleton``).
        mix: the mix.

    Raises:
        WrongBaseError: a steer belongs to another base.
        SteerError: a steer has another form than multiply, or acts on the stream after a layer, or there are too many
            adapters.
    """
    for steer in mix.steers.values():
        steer.card.check_head(head_sample(head.weight, len(head.weight)))
    parent = adapters_folder()
    folder = parent / tensors_fingerprint(merge(mix, "adapter").factors)
    if folder not in _own and len(_own) >= _MAX_OWN:
        raise SteerError(f"there are adapters for {_MAX_OWN} strengths already, the most that one server writes.")
    _own.add(folder)
    if not folder.exists():
        others = sorted(set(parent.glob("*/")) - _own, key=lambda each: each.stat().st_mtime)
        for oldest in others[: max(0, len(others) + 1 - _MAX_KEPT)]:
            shutil.rmtree(oldest, ignore_errors=True)
        write_lora(head, skeleton, mix, folder)
    return folder


def register_resolver() -> None:
    """Register the resolver with vLLM."""
    LoRAResolverRegistry.register_resolver("lmsteer", SteerResolver())


def _adapter_for(model: str, name: str) -> Path:
    return adapter(*_head_and_skeleton(model), _mix(name))


@lru_cache(maxsize=1)
def _head_and_skeleton(model: str) -> tuple[HeadWeight, PreTrainedModel]:
    return read_head(model), read_skeleton(model)


def _mix(name: str) -> Mix:
    """The steers and strengths in the name of a model."""
    steers, strengths = registry().steering(of_model_name(name))
    return Mix(steers, constant(strengths, "vLLM"))
