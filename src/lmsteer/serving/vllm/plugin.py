"""The function that vLLM's entry point ``vllm.general_plugins`` calls in each of its processes."""

from __future__ import annotations

import os

from lmsteer.serving.vllm.validation import FOLDERS


def register() -> None:
    """Let every model be steered at its head; do nothing if ``LMSTEER_STEERS`` is not set.

    Raises:
        SteerError: the variable names something that is not a folder.
    """
    if not os.environ.get(FOLDERS):
        return
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    from lmsteer.serving.vllm.layer import SteeredLogitsProcessor
    from lmsteer.serving.vllm.lora import register_resolver
    from lmsteer.serving.vllm.validation import registry

    registry().names()
    if LogitsProcessor.__name__ not in op_registry_oot:
        LogitsProcessor.register_oot(SteeredLogitsProcessor)
    register_resolver()
