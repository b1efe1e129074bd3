"""Loading: from a model's name to an ``LM``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lmsteer.errors import ModelError
from lmsteer.model.checkpoint import check_task, read_model, read_tokenizer, where
from lmsteer.model.lm import LM
from lmsteer.model.model_kind import check_kind
from lmsteer.model.onednn import use_onednn
from lmsteer.model.sources.pypi import DEFAULT_MODEL
from lmsteer.model.sources.resolve import hub_answers, resolve
from lmsteer.util.devices import accelerator

# The options that split the weights over processes, of which transformers chooses the devices.
_SPLITTING = ("distributed_config", "tp_plan", "tp_size")


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    dtype: torch.dtype | str = "auto",
    base_fingerprint: str | None = None,
    **options: Any,
) -> LM:
    """Load a causal LM by Hub id, local folder, ``.gguf`` file, or the name of a packaged model.

    Args:
        model: what to load.
        dtype: the dtype of the weights; ``"auto"`` takes the checkpoint's own.
        base_fingerprint: the fingerprint of the weights that these stand for, if you know that they are the same base
            in another form. Quantised weights are other numbers: steers are accepted on kin of their base, but other
            artifacts that were fitted on the whole weights are refused.
            ``load(name, quantization_config=..., base_fingerprint=steer.card.base_fingerprint)`` says that they belong.
        options: passed on to ``AutoModelForCausalLM.from_pretrained`` (``device_map``, ``quantization_config``,
            ``attn_implementation``, ``revision`` ...); those that say where files are hold for the tokenizer, too.
            Without a ``device_map`` the model goes to the accelerator, if there is one. With a ``distributed_config``
            the processes of a ``torchrun`` hold a part of the weights each (tensor parallelism, FSDP).

    Raises:
        ModelError: the model cannot be found, fetched or read, is not wholly on disk, or is no causal language model;
            or a ``distributed_config`` gives whole layers to each process.
    """
    source, what = resolve(model), f"the model {str(model)!r}"
    local = source.local or bool(options.get("local_files_only"))
    options["local_files_only"] = local or not hub_answers(source.location, options.get("cache_dir"))
    splits = any(options.get(name) is not None for name in _SPLITTING)
    if (device := accelerator()) is not None and not splits:
        options.setdefault("device_map", str(device))
    if (getattr(options.get("distributed_config"), "pp_size", None) or 1) > 1:
        raise ModelError(f"{what} cannot have its layers in several processes: choose tensor parallelism.")
    check_kind(source.location, what, options)
    tokenizer = read_tokenizer(source.location, what, **where(options))
    loaded = read_model(AutoModelForCausalLM, source.location, what, dtype=dtype, **options)
    check_task(loaded, what)
    use_onednn(loaded)
    return LM(loaded, tokenizer, source.name, base_fingerprint)
