"""The context length: how many tokens a model can take at once.

A model whose positions are rows of a table ends where the table ends, and raises an exception beyond. Some families
keep rows in front for padding (OPT's table begins at its third row), which their configs may count or not. So the first
row that is read is watched in a forward pass. Rotary positions and biases by distance go on for ever, but are trained
up to a length that the config states; that is the limit then. A recurrent model has none.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from lmsteer.steer.hook import unsteered

# The context length of a model that has no limit.
UNLIMITED = 1 << 20
# The names of the context length in configs; transformers translates some of them into the first.
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_target_positions",
    "context_length",
    "seq_length",
    "seq_len",
    "max_seq_length",
    "max_sequence_length",
)
# Rotary positions that are stretched by a factor beyond the length that the config states. Others are stretched up to
# that length.
_STRETCHED = ("linear", "dynamic", "yarn")
# Tokens in an order that no row of positions has.
_PROBE = (7, 3, 11, 5)


def context_length(model: PreTrainedModel) -> int:
    """The length of the longest text that a model can take, in tokens; ``UNLIMITED`` if there is no limit."""
    return min([stated_length(model.config), *_table_lengths(model)])


def stated_length(config: PretrainedConfig) -> int:
    """The context length that a config states; ``UNLIMITED`` if it states none."""
    config = config.get_text_config()
    if own := _length(config, "model_max_length"):  # Command-R's: its max_position_embeddings are fewer
        return own
    known = [name for name in _NAMES if hasattr(type(config), name) or name in config.attribute_map]
    for names in (known, _NAMES):  # fields that the model's code reads, or else those that its writer left a note in
        if lengths := [length for name in names if (length := _length(config, name))]:
            return _stretched(config, min(lengths))
    return UNLIMITED


def _length(config: PretrainedConfig, name: str) -> int:
    """The number in a field; 0 if there is none, or a negative one (XLNet's "no limit")."""
    value = getattr(config, name, None)
    return int(value) if isinstance(value, (int, float)) and 0 < value <= UNLIMITED * UNLIMITED else 0


def _stretched(config: PretrainedConfig, length: int) -> int:
    """The length that rotary positions are stretched to. One factor for all layers is meant, not one for each kind."""
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in _STRETCHED:
        return length
    trained = rope.get("original_max_position_embeddings") or length
    return max(length, int(trained * (rope.get("factor") or 1)))


def _table_lengths(model: PreTrainedModel) -> list[int]:
    """The numbers of positions in the model's tables of positions."""
    tokens = model.get_input_embeddings()
    if not any(isinstance(module, nn.Embedding) and module is not tokens for module in model.modules()):
        return []
    rows = model.config.get_text_config().vocab_size
    ids = torch.tensor([_PROBE], device=model.device) % rows
    free = unsteered(model) if model.get_output_embeddings() is not None else nullcontext()
    with torch.inference_mode(), free, _TablesOfPositions(len(_PROBE)) as tables:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return tables.lengths


class _TablesOfPositions(TorchFunctionMode):
    """Watches which embeddings are read in consecutive rows while a text of some tokens goes through a model."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.lengths: list[int] = []
        self._steps = list(range(tokens))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding:
            self._watch(*args[:2])
        return func(*args, **(kwargs or {}))

    def _watch(self, read: Tensor, table: Tensor) -> None:
        places = read.flatten().tolist()
        if places and places == [places[0] + step for step in self._steps]:
            self.lengths.append(len(table) - places[0])
