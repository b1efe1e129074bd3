"""The second route: where plugins may not touch hidden states, a model named ``sentiment@2.5`` is a LoRA on the head.

vLLM asks a resolver for adapters that it does not know; this one writes the steer at that strength as one. It needs
``--enable-lora``, a ``--max-lora-rank`` of the steer's rank at least, and a model whose head adapters may change.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from functools import lru_cache
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.export.peft import write_lora
from lmsteer.model.fingerprints import head_sample, tensors_fingerprint
from lmsteer.model.head import HeadWeight
from lmsteer.model.head_file import read_head
from lmsteer.serving.vllm.adapter_cache import adapters_folder
from lmsteer.serving.vllm.validation import shelf
from lmsteer.steer.algebra import merge
from lmsteer.steer.mix import Mix
from lmsteer.steer.notation import of_model_name

# Adapters on the disk: each is as large as the vocabulary times the rank, and there are as many as strengths. Those of
# other processes make room; those of this one are named to vLLM, which may read them anew at any time.
_KEPT = 32
_MOST = 256
_handed_out: set[Path] = set()
_log = logging.getLogger(__name__)


class SteerResolver(LoRAResolver):
    """Answers for ``STEER@STRENGTH``, and for several joined by ``+``."""

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of a name; None where it names no steer and strength, which vLLM answers with status 404."""
        if "@" not in lora_name:
            return None
        try:
            folder = await asyncio.to_thread(_written, base_model_name, lora_name)
        except LMSteerError as error:
            _log.warning("no adapter for %r: %s", lora_name, error)
            return None
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))  # vLLM numbers it itself


def adapter(head: HeadWeight, mix: Mix) -> Path:
    """The folder of a mix as an adapter on a head, written once.

    Raises:
        WrongBaseError: a steer of another base.
        SteerError: steers of another form than multiply, or too many adapters.
    """
    for steer in mix.steers.values():
        steer.card.check_head(head_sample(head.weight, len(head.weight)))
    where = adapters_folder()
    folder = where / tensors_fingerprint(merge(mix, "adapter").factors)
    if folder not in _handed_out and len(_handed_out) >= _MOST:
        raise SteerError(f"{_MOST} strengths have adapters already, as many as one server keeps.")
    _handed_out.add(folder)
    if not folder.exists():
        older = sorted(set(where.glob("*/")) - _handed_out, key=lambda each: each.stat().st_mtime)
        for each in older[: max(0, len(older) + 1 - _KEPT)]:
            shutil.rmtree(each, ignore_errors=True)
        write_lora(head, mix, folder)
    return folder


def register_resolver() -> None:
    """Have vLLM ask."""
    LoRAResolverRegistry.register_resolver("lmsteer", SteerResolver())


def _written(model: str, name: str) -> Path:
    return adapter(_head(model), Mix(*shelf().steering(of_model_name(name))))


@lru_cache(maxsize=1)
def _head(model: str) -> HeadWeight:
    return read_head(model)
