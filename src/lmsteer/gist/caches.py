"""Keys and values of what has been read: made, cut to the last tokens, and put together into the cache of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmsteer.decoding import CACHE
from lmsteer.errors import ModelError
from lmsteer.gist.layout import Layout
from lmsteer.lm import LM


class Kept(NamedTuple):
    """What is kept of some tokens: of each layer keys and values (heads, G, d_head)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@torch.inference_mode()
def read(lm: LM, layout: Layout) -> DynamicCache:
    """The cache of a pass over rows, nothing hidden."""
    cache = DynamicCache(config=lm.model.config)
    lm.model(
        input_ids=layout.ids,
        attention_mask=layout.mask,
        position_ids=layout.positions,
        use_cache=True,
        logits_to_keep=1,
        **{CACHE: cache},
    )
    return cache


def cut(cache: DynamicCache, row: int, tokens: int) -> Kept:
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
    return Kept(*kept)


def joined(lm: LM, rows: Sequence[Kept]) -> tuple[DynamicCache, Tensor]:
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
