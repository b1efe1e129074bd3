"""The entry points by which vLLM finds all this."""

from __future__ import annotations

import os

from lmsteer.serving.vllm.validation import FOLDERS


def register() -> None:
    """Put the dial in front of every model's head, in each of vLLM's processes; do nothing where there are no steers.

    Raises:
        SteerError: the folders of steers cannot be read.
    """
    if not os.environ.get(FOLDERS):
        return
    # The first runner steers hidden states in front of the head, at no cost; the second one behind it.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    from lmsteer.serving.vllm.layer import SteeredLogitsProcessor
    from lmsteer.serving.vllm.lora import register_resolver
    from lmsteer.serving.vllm.validation import shelf

    shelf().names()
    if LogitsProcessor.__name__ not in op_registry_oot:
        LogitsProcessor.register_oot(SteeredLogitsProcessor)
    register_resolver()
