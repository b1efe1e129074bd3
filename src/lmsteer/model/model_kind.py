"""Kinds of models that are no causal language models, told by their config before any weights are read.

What a config does not tell is proved when the weights are there (``lmsteer.model.proofs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig
from transformers.configuration_utils import PretrainedConfig
from transformers.utils.hub import cached_file

from lmsteer.errors import ModelError
from lmsteer.model.checkpoint import explained, where

_ADVICE = "lmsteer steers causal language models, which continue a text from left to right."


def check_kind(location: str, what: str, options: Mapping[str, Any]) -> None:
    """Refuse a model whose config tells that it is no causal language model.

    Args:
        location: a folder, or a Hub id.
        what: what the model is called in messages.
        options: the arguments of ``from_pretrained``.

    Raises:
        ModelError: it is an encoder-decoder, a masked, diffusion or embedding model, of a kind that transformers does
            not know, or one that needs code of its own and was not trusted; or its config cannot be read.
    """
    named = where(options)
    trusted = bool(named.pop("trust_remote_code", False))
    with explained(what, location):
        record, _ = PretrainedConfig.get_config_dict(location, **named)
        if not isinstance(record, dict):
            raise ValueError(f"its config.json holds a {type(record).__name__}, and no object of fields")
        quiet = dict.fromkeys(
            ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
        )
        embeds = cached_file(location, "modules.json", **named, **quiet)
    kind, own_code = str(record.get("model_type") or ""), record.get("auto_map") or {}
    if embeds:
        raise ModelError(
            f"{what} is a model of sentence-transformers (it has a modules.json), which makes embeddings of texts. "
            f"{_ADVICE}"
        )
    if own_code and not trusted and kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{what} needs code of its own (auto_map in its config.json). lmsteer runs it only where Python says so: "
            "load(..., trust_remote_code=True). Read that code first."
        )
    if kind and kind not in CONFIG_MAPPING and not own_code:
        raise ModelError(
            f"{what} is of the type {kind!r}, which transformers {transformers.__version__} does not know; a newer "
            "one may (pip install --upgrade transformers)."
        )
    with explained(what, location):
        config = AutoConfig.from_pretrained(location, trust_remote_code=trusted, **named)
    if other := _other_kind(config, trusted and "AutoModelForCausalLM" in own_code):
        raise ModelError(f"{what} is {other} ({config.model_type}). {_ADVICE}")


def _other_kind(config: PretrainedConfig, has_code: bool) -> str:
    """What a config is of, if it is of no causal language model; or empty."""
    named = [str(name) for name in getattr(config, "architectures", None) or ()]
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder"
    if "diffusion" in config.model_type or any("Diffusion" in name for name in named):
        return "a diffusion model"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", True):
        return "a masked language model, which reads a text in both directions"
    if has_code or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return ""
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return "a masked language model, which reads a text in both directions"
    return "of a type that transformers has no causal language model of"
