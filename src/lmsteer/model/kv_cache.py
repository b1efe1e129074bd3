"""Keys and values of tokens that a model has read: made, cut to the last tokens, stacked for a batch, continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.layers import layer_devices
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE


class KVSlice(NamedTuple):
    """The keys and values of G tokens, for each layer (heads, G, d_head)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """G."""
        return self.keys[0].shape[1]


@torch.inference_mode()
def prefill(lm: LM, ids: Tensor, mask: Tensor, positions: Tensor) -> DynamicCache:
    """The cache after padded rows (B, T) at the given positions."""
    cache = DynamicCache(config=lm.model.config)
    read_on(lm, ids, mask, positions, cache)
    return cache


@torch.inference_mode()
def read_on(lm: LM, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Read padded rows (B, T) at the given positions into a cache; the hidden states (B, T, d) at the head's input."""
    optional = {"position_ids": positions} if lm.takes_positions else {}
    return lm.before_head(input_ids=ids, attention_mask=mask, use_cache=True, **optional, **{CACHE: cache})


def slice_kv(cache: DynamicCache, row: int, tokens: int) -> KVSlice:
    """The keys and values of the last tokens of a row, copied.

    Raises:
        ModelError: a layer has not kept so many.
    """
    slices: list[tuple[Tensor, ...]] = []
    for name in ("keys", "values"):
        layers = [getattr(layer, name, None) for layer in cache.layers]
        complete = [layer for layer in layers if layer is not None and layer.shape[2] >= tokens]
        if len(complete) < len(layers):
            raise ModelError("a layer keeps no keys and values of the whole prompt: it has none, or a shorter window.")
        slices.append(tuple(layer[row, :, -tokens:].clone() for layer in complete))
    return KVSlice(*slices)


def stack_kv(lm: LM, rows: Sequence[KVSlice]) -> tuple[DynamicCache, Tensor]:
    """A cache of some rows, padded on the left, each layer on its own device; and its mask (B, G)."""
    cache, lengths = DynamicCache(config=lm.model.config), [row.tokens for row in rows]
    width = max(lengths)

    def stacked(parts: list[Tensor], device: torch.device) -> Tensor:
        padded = [nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
        return torch.stack([part.to(device, lm.model.dtype) for part in padded])

    for layer, device in enumerate(layer_devices(lm)):
        keys, values = ([row[k][layer] for row in rows] for k in (0, 1))
        cache.update(stacked(keys, device), stacked(values, device), layer)
    places = torch.arange(width, device=lm.device)
    return cache, (places >= width - torch.tensor(lengths, device=lm.device)[:, None]).long()


@dataclass(frozen=True)
class CachePrefill:
    """Starts each row at an input that follows tokens whose keys and values are kept.

    Attributes:
        lm: the model.
        kept: the keys and values before each input.
        ends: the position of the first token of each input.
        ids: the token ids of each input.
    """

    lm: LM
    kept: Sequence[KVSlice]
    ends: Sequence[int]
    ids: Sequence[Sequence[int]]

    def prompt_lengths(self) -> Sequence[int]:
        """The lengths of the inputs, in tokens: the kept tokens have been read."""
        return [len(ids) for ids in self.ids]

    def model_inputs(self, prompts: Sequence[int]) -> dict[str, Any]:
        """The arguments of ``generate``: ids (B, G + T), mask, positions and cache.

        Padding stands in for the kept tokens, then come the inputs, padded on the left. A model without positions
        counts them by its mask, the kept tokens included.
        """
        ids, mask = pad([self.ids[prompt] for prompt in prompts], self.lm.pad_id, self.lm.device, "left")
        cache, room = stack_kv(self.lm, [self.kept[prompt] for prompt in prompts])
        ends = torch.tensor([[self.ends[prompt]] for prompt in prompts], device=ids.device)
        # The kept tokens have been read: their ids and positions have no effect.
        positions = torch.cat([0 * room, (ends + mask.cumsum(1) - 1) * mask], 1)
        optional = {"position_ids": positions} if self.lm.takes_positions else {}
        whole = torch.cat([0 * room + self.lm.pad_id, ids], 1)
        return {"input_ids": whole, "attention_mask": torch.cat([room, mask], 1), **optional, CACHE: cache}

    def installed(self) -> AbstractContextManager[None]:
        """Leave the model as it is."""
        return nullcontext()

    def needs_batches_of_one(self, new_tokens: int) -> bool:
        """Whether padding would push kept tokens out of a sliding window, so that rows must run one at a time."""
        limit = shortest_window(self.lm)
        longest = max(row.tokens for row in self.kept) + max(map(len, self.ids))
        return limit is not None and longest + new_tokens > limit


def shortest_window(lm: LM) -> int | None:
    """The shortest attention window of the model's layers, in tokens; None if every layer sees the whole past."""
    config = lm.model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    return min((int(limit) for limit in limits if limit), default=None)
