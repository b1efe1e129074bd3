"""What lmsteer uses of libraries beyond their documented interface, or under names that differ between releases.

Everything of the kind stands here, each with a test, so that an upgrade that breaks something fails in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from transformers import PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

# The name under which this release of transformers 5 takes and returns the key-value cache: ``past_key_values`` up to
# 5.2x, ``cache`` after; the former warns where the latter exists.
CACHE = next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ("cache", "past_key_values"))


@contextmanager
def untied(model: PreTrainedModel) -> Iterator[None]:
    """Have ``save_pretrained`` write the head as a tensor of its own, within a ``with`` block.

    The configuration says so by a documented field; that the tensor itself is written takes the private one.
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
