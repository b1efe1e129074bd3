"""What lmsteer uses of libraries beyond their documented interface, or under names that differ between releases.

Everything of the kind stands here, each with a test, so that an upgrade that breaks something fails in one place.
Libraries are imported when something is used, so that importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import GenerationConfig, PreTrainedModel, TrainingArguments

    CACHE: str


def __getattr__(name: str) -> str:
    if name == "CACHE":
        return _cache_name()
    raise AttributeError(name)


@cache
def _cache_name() -> str:
    """The name under which this release of transformers 5 takes and returns the key-value cache.

    It is ``past_key_values`` up to 5.2x and ``cache`` after; the former warns where the latter exists.
    """
    from dataclasses import fields

    from transformers.generation.utils import GenerateDecoderOnlyOutput

    return next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ("cache", "past_key_values"))


def standalone_generation_config(**values: Any) -> GenerationConfig:
    """A generation config for a model's ``generate`` that takes nothing from the model's own config.

    ``generate(generation_config=...)`` fills every value that is None from ``model.generation_config``, by a call of
    ``update(defaults_only=True, allow_custom_entries=True)``; most settings have no other value that turns them off.
    """
    return _standalone_class()(**values)


@cache
def _standalone_class() -> type[GenerationConfig]:
    from transformers import GenerationConfig

    class StandaloneGenerationConfig(GenerationConfig):
        """Ignores the update from a model's own config."""

        def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> Any:
            if defaults_only and allow_custom_entries:
                return {}
            return super().update(defaults_only, allow_custom_entries, **values)  # type: ignore[no-untyped-call]

    return StandaloneGenerationConfig


@contextmanager
def load_report() -> Iterator[list[str]]:
    """Keep to oneself what transformers logs of a model that it loads, within a ``with`` block; a list of it.

    It logs a table of the tensors that are missing, unexpected or not converted. Why a conversion failed is told
    nowhere else.
    """
    import logging

    logger, report = logging.getLogger("transformers.modeling_utils"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        report.append(record.getMessage())
        return False

    level = logger.level
    logger.addFilter(keep)
    logger.setLevel(logging.INFO)  # WARNING would set off a check of its own
    try:
        yield report
    finally:
        logger.setLevel(level)
        logger.removeFilter(keep)


def is_recurrent(model: PreTrainedModel) -> bool:
    """Whether a model keeps a state in place of keys and values (Mamba and its like): transformers' private mark."""
    return bool(getattr(model, "_is_stateful", False))


@contextmanager
def untied(model: PreTrainedModel) -> Iterator[None]:
    """Have ``save_pretrained`` write the head as a tensor of its own, within a ``with`` block.

    A documented field of the configuration says that the head is untied. For the tensor itself to be written, the
    model's private list of tied weights must be empty as well.
    """
    configs = [each for each in (model.config, model.config.get_text_config()) if hasattr(each, "tie_word_embeddings")]
    ties, keys = [each.tie_word_embeddings for each in configs], model._tied_weights_keys
    for config in configs:
        config.tie_word_embeddings = False
    model._tied_weights_keys = {}
    try:
        yield
    finally:
        model._tied_weights_keys = keys
        for config, tie in zip(configs, ties, strict=True):
            config.tie_word_embeddings = tie


def replace_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a module's parameter, and leave the order of parameters as it is.

    ``setattr`` refuses a tensor that is no ``nn.Parameter``, as one that gradients go through is none;
    ``torch.func.functional_call`` writes here, too, but only around a call of the module itself.
    """
    module._parameters[name] = tensor  # type: ignore[assignment]


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Keep transformers' Trainer from splitting each batch over all GPUs of a process (``nn.DataParallel``)."""
    arguments._n_gpu = min(arguments.n_gpu, 1)


def hub_cache_folder(repository: str, cache_folder: str | Path | None = None) -> Path:
    """The folder in which huggingface_hub caches a model.

    Args:
        repository: the model's Hub id.
        cache_folder: the folder of the whole cache; huggingface_hub's own if None.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(cache_folder or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is of torchao: it has the shape and dtype of the weight it stands for, and few operations."""
    return type(weight).__module__.startswith("torchao.")


def is_split(weight: Tensor) -> bool:
    """Whether several processes hold a part of a weight each, as under tensor parallelism and FSDP (a ``DTensor``)."""
    return hasattr(weight, "full_tensor")


def is_fsdp(model: nn.Module) -> bool:
    """Whether FSDP splits a model's weights, and joins those of a layer for its passes."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole(weight: Tensor) -> Tensor:
    """A weight as one plain tensor, detached. If processes hold a part of it each, all of them must call this."""
    import torch

    if not is_split(weight):
        return weight.detach()
    with torch.inference_mode(False), torch.no_grad():  # a DTensor cannot be detached in inference mode
        joined: Tensor = weight.full_tensor()  # type: ignore[attr-defined]
        return joined.detach()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of Python or torch, means that memory is short, so that a smaller batch may pass."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def has_onednn_linear() -> bool:
    """Whether this torch has oneDNN's product with a linear layer's weight as an operator."""
    import torch

    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x Wᵀ + b`` by oneDNN, float32 on the CPU; the weight is read as it lies, by rows or by columns."""
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
