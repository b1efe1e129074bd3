"""Keys and values of tokens that a model has read: made, cut to the last tokens, stacked for a batch, continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.layers import layer_devices
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapter
from lmsteer.steer.mix import Mix, Steering
from lmsteer.util.compat import CACHE


class KVSlice(NamedTuple):
    """The keys and values of G tokens, for each layer (heads, G, d_head)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """G."""
        return self.keys[0].shape[1]

    def columns(self, first: int, stop: int) -> KVSlice:
        """Those of some of the tokens, by their places."""
        return KVSlice(*(tuple(layer[:, first:stop] for layer in part) for part in self))

    def followed_by(self, other: KVSlice) -> KVSlice:
        """These tokens and then others."""
        pairs = zip(self, other, strict=True)
        return KVSlice(*(tuple(torch.cat(two, 1) for two in zip(*pair, strict=True)) for pair in pairs))


@torch.inference_mode()
def prefill(lm: LM, ids: Tensor, mask: Tensor, positions: Tensor) -> DynamicCache:
    """The cache after padded rows (B, T) at the given positions."""
    cache = DynamicCache(config=lm.model.config)
    read_on(lm, ids, mask, positions, cache)
    return cache


@torch.inference_mode()
def read_on(
    lm: LM, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache, steering: Mix | None = None
) -> Tensor:
    """Read padded rows (B, T) at the given positions into a cache; the hidden states (B, T, d) at the head's input.

    Steers of ``steering`` act inside the model.
    """
    optional = {"position_ids": positions} if lm.takes_positions else {}
    return lm.before_head(steering, input_ids=ids, attention_mask=mask, use_cache=True, **optional, **{CACHE: cache})


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


def placed_kv(lm: LM, kept: KVSlice) -> KVSlice:
    """Keys and values on the devices of the model's layers, in its precision."""
    devices = layer_devices(lm)
    return KVSlice(
        *(tuple(part.to(device, lm.model.dtype) for part, device in zip(parts, devices, strict=True)) for parts in kept)
    )


def stack_kv(lm: LM, rows: Sequence[KVSlice], *, whole: bool = False) -> tuple[DynamicCache, Tensor]:
    """A cache of some rows, padded on the left, each layer on its own device; and its mask (B, G).

    Args:
        lm: the model.
        rows: the rows.
        whole: whether layers with a sliding window keep all tokens, too.
    """
    cache = DynamicCache() if whole else DynamicCache(config=lm.model.config)
    lengths = [row.tokens for row in rows]
    width = max(lengths)

    def stacked(parts: list[Tensor], device: torch.device) -> Tensor:
        padded = [nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
        return torch.stack([part.to(device, lm.model.dtype) for part in padded])

    for layer, device in enumerate(layer_devices(lm)):
        keys, values = ([row[k][layer] for row in rows] for k in (0, 1))
        cache.update(stacked(keys, device), stacked(values, device), layer)
    places = torch.arange(width, device=lm.device)
    return cache, (places >= width - torch.tensor(lengths, device=lm.device)[:, None]).long()


@dataclass(frozen=True, eq=False)
class Start:
    """Where a row starts: token ids that the model reads; keys and values of tokens before them may be kept.

    Attributes:
        ids: the token ids.
        kept: the keys and values of the tokens before them; None if there are none.
        position: the position of the first of the ids. It need not be the number of kept tokens: a gist stands where
            its whole prompt would.
        adapter: the adapter that the model has while it reads and continues the row; None for none.
        inside: the steers that act inside the model while it reads the ids, and their strengths; None for none.
    """

    ids: Sequence[int]
    kept: KVSlice | None = None
    position: int = 0
    adapter: RowAdapter | None = None
    inside: Steering | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the row is made of its ids alone."""
        return self.kept is None and self.adapter is None and self.inside is None

    @property
    def reading(self) -> Mix | None:
        """The mix that acts inside the model while it reads the ids; None for none."""
        return None if self.inside is None else Mix(*self.inside)

    @property
    def tokens(self) -> int:
        """The number of tokens, kept ones included."""
        return len(self.ids) + (self.kept.tokens if self.kept else 0)


# Where rows start that are made of their ids alone, before these.
NOTHING_BEFORE = Start(())


def inputs_of(lm: LM, starts: Sequence[Start]) -> dict[str, Any]:
    """The arguments of a forward pass, or of ``generate``, for some rows: ids (B, T) and mask, padded on the left.

    Where tokens are kept, padding stands in for them in ids (B, G + T) and mask, and there are positions and a cache,
    too: the pass itself is given the last T columns of ids and positions. A model without positions counts them by its
    mask, the kept tokens included.

    Args:
        lm: the model.
        starts: where the rows start; all of them after kept tokens, or none.
    """
    ids, mask = pad([start.ids for start in starts], lm.pad_id, lm.device, "left")
    kept = [start.kept for start in starts if start.kept is not None]
    if not kept:
        return {"input_ids": ids, "attention_mask": mask}
    cache, room = stack_kv(lm, kept)
    begin = torch.tensor([[start.position] for start in starts], device=ids.device)
    # The kept tokens have been read: their ids and positions have no effect.
    positions = torch.cat([0 * room, (begin + mask.cumsum(1) - 1) * mask], 1)
    optional = {"position_ids": positions} if lm.takes_positions else {}
    whole = torch.cat([0 * room + lm.pad_id, ids], 1)
    return {"input_ids": whole, "attention_mask": torch.cat([room, mask], 1), **optional, CACHE: cache}


def shortest_window(lm: LM) -> int | None:
    """The shortest attention window of the model's layers, in tokens; None if every layer sees the whole past."""
    config = lm.model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    return min((int(limit) for limit in limits if limit), default=None)
