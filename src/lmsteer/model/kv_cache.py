"""Keys and values of what has been read: made, cut to the last tokens, put together for a batch, and gone on from."""

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
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE


class KVSlice(NamedTuple):
    """What is kept of some tokens: of each layer keys and values (heads, G, d_head)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@torch.inference_mode()
def prefill(lm: LM, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None = None) -> DynamicCache:
    """The cache of a pass over rows (B, T), padded, at positions of their own; a new one of the model's if None."""
    cache = DynamicCache(config=lm.model.config) if cache is None else cache
    told = {"position_ids": positions} if lm.takes_positions else {}
    lm.model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=1,
        **told,
        **{CACHE: cache},
    )
    return cache


def slice_kv(cache: DynamicCache, row: int, tokens: int) -> KVSlice:
    """What is kept of the last tokens of a row.

    Raises:
        ModelError: a layer has not kept so many.
    """
    kept: list[tuple[Tensor, ...]] = []
    for what in ("keys", "values"):
        parts = [getattr(layer, what, None) for layer in cache.layers]
        whole = [part for part in parts if part is not None and part.shape[2] >= tokens]
        if len(whole) < len(parts):
            raise ModelError("a layer keeps no keys and values of the whole prompt: it has none, or a shorter window.")
        kept.append(tuple(part[row, :, -tokens:].clone() for part in whole))
    return KVSlice(*kept)


def stack_kv(lm: LM, rows: Sequence[KVSlice]) -> tuple[DynamicCache, Tensor]:
    """A cache of some rows, padded on the left; and its mask (B, G)."""
    cache, lengths = DynamicCache(config=lm.model.config), [row.keys[0].shape[1] for row in rows]
    width = max(lengths)

    def wide(parts: list[Tensor]) -> Tensor:
        padded = [nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
        return torch.stack(padded).to(lm.device, lm.model.dtype)

    for layer in range(len(rows[0].keys)):
        cache.update(wide([row.keys[layer] for row in rows]), wide([row.values[layer] for row in rows]), layer)
    places = torch.arange(width, device=lm.device)
    return cache, (places >= width - torch.tensor(lengths, device=lm.device)[:, None]).long()


@dataclass(frozen=True)
class CachePrefill:
    """Rows begin at an input, each after what is kept of something that stood before it.

    Attributes:
        lm: the model.
        kept: before each input.
        ends: position of the first token of each input.
        ids: of each input.
    """

    lm: LM
    kept: Sequence[KVSlice]
    ends: Sequence[int]
    ids: Sequence[Sequence[int]]

    def lengths(self) -> Sequence[int]:
        """Of the inputs, in tokens: what is kept has been read."""
        return [len(ids) for ids in self.ids]

    def begin(self, prompts: Sequence[int]) -> dict[str, Any]:
        """Room for what is kept, then the inputs padded on the left (B, G + T); their mask, positions, and cache.

        A model that cannot be told positions reads them off its mask, in which what is kept counts.
        """
        ids, mask = pad([self.ids[prompt] for prompt in prompts], self.lm.pad_id, self.lm.device, "left")
        cache, room = stack_kv(self.lm, [self.kept[prompt] for prompt in prompts])
        ends = torch.tensor([[self.ends[prompt]] for prompt in prompts], device=ids.device)
        # What is kept has been read: neither its ids nor its positions are looked at.
        positions = torch.cat([0 * room, (ends + mask.cumsum(1) - 1) * mask], 1)
        told = {"position_ids": positions} if self.lm.takes_positions else {}
        whole = torch.cat([0 * room + self.lm.pad_id, ids], 1)
        return {"input_ids": whole, "attention_mask": torch.cat([room, mask], 1), **told, CACHE: cache}

    def installed(self) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def one_by_one(self, new: int) -> bool:
        """Where padding between what is kept and inputs would push that out of a layer's window, which counts it."""
        limit = shortest_window(self.lm)
        longest = max(row.keys[0].shape[1] for row in self.kept) + max(map(len, self.ids))
        return limit is not None and longest + new > limit


def shortest_window(lm: LM) -> int | None:
    """The shortest past that a layer of the model sees, in tokens; None if all see all of it."""
    config = lm.model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    return min((int(limit) for limit in limits if limit), default=None)
