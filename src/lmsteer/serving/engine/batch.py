"""A batch whose rows come and go between tokens.

All rows end at the same column of their keys and values, and begin where their own length says; what stands before is
masked. Around the columns in use there is room, so that a token, and a row that is no longer than the others, are
written in place and nothing is copied::

    room   [ . . . . . . . . . . . . ]
    row 0  [ . . a b c d e f . . . . ]
    row 1  [ . . - - - x y z . . . . ]       -: masked
                 first     end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import prefill, slice_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE

# Columns of room on either side of those in use.
SPARE = 64
# Prompt tokens that are read between two steps, padding included: so that those who are being served do not wait long
# for newcomers.
PIECE = 256


@dataclass
class _Columns:
    """Those in use, by all layers alike: of so many rows, from ``first`` to ``end``."""

    rows: int = 0
    first: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        return self.end - self.first


class _Layer(DynamicLayer):
    """A layer's keys and values (rows, heads, columns, d_head) in room of their own."""

    def __init__(self, used: _Columns, kind: tuple[Tensor, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._used, self._room = used, [part.new_empty(0, part.shape[0], 0, part.shape[2]) for part in kind]
        self.is_initialized = True

    @property
    def capacity(self) -> tuple[int, int]:
        """Rows and columns that there is room for."""
        return self._room[0].shape[0], self._room[0].shape[2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write what is new behind the columns in use; gives all of it."""
        rows, first, end = self._used.rows, self._used.first, self._used.end + key_states.shape[2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:rows, :, self._used.end : end] = states
        keys, values = (room[:rows, :, first:end] for room in self._room)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self._used.width

    def move(self, rows: int, columns: int, end: int) -> None:
        """Into other room, in which the columns in use end at ``end``."""
        used = self._used
        for i, room in enumerate(self._room):
            other = room.new_zeros(rows, room.shape[1], columns, room.shape[3])
            other[: used.rows, :, end - used.width : end] = room[: used.rows, :, used.first : used.end]
            self._room[i] = other

    def put(self, row: int, states: tuple[Tensor, Tensor]) -> None:
        """One row's own keys and values (heads, length, d_head), up to the end."""
        for room, part in zip(self._room, states, strict=True):
            room[row, :, self._used.end - part.shape[1] : self._used.end] = part

    def copy(self, source: int, target: int) -> None:
        """One row in the place of another."""
        for room in self._room:
            room[target, :, self._used.first : self._used.end] = room[source, :, self._used.first : self._used.end]


class Batch:
    """Rows of tokens that a model of attention layers goes on with, side by side.

    Windows of layers are kept to by masks alone: all keys and values stay.

    Args:
        lm: the model.
        piece: tokens that are read at once.
    """

    def __init__(self, lm: LM, piece: int = PIECE) -> None:
        self._lm, self._piece = lm, piece
        self._used, self._lengths = _Columns(), list[int]()
        self._layers = list[_Layer]()
        self._cache = Cache(layers=[])

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        """Of all the room there is."""
        return sum(part.numel() * part.element_size() for layer in self._layers for part in layer._room)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]]) -> Iterator[int]:
        """Take rows in behind the others: prompts, all of which but the last token is read here.

        Yields:
            How many columns are still to be read, after each piece but the last; rows may step and leave meanwhile.
        """
        unique = list(dict.fromkeys(map(tuple, prompts)))
        ids, mask = pad(unique, self._lm.pad_id, self._lm.device, "left")
        positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache()
        width, piece = ids.shape[1], max(1, self._piece // len(unique))
        for first in range(0, width, piece):
            here = slice(first, first + piece)
            prefill(self._lm, ids[:, here], mask[:, : here.stop], positions[:, here], cache)
            if here.stop < width:
                yield width - here.stop
        parts = [[*zip(*slice_kv(cache, i, len(prompt)), strict=True)] for i, prompt in enumerate(unique)]
        self._layers = self._layers or [_Layer(self._used, part) for part in parts[0]]
        self._cache = Cache(layers=list(self._layers))
        self._make_room(len(self) + len(prompts), max(map(len, prompts)))
        for prompt in prompts:
            for layer, (keys, values) in zip(self._layers, parts[unique.index(tuple(prompt))], strict=True):
                layer.put(len(self), (keys[:, :-1], values[:, :-1]))
            self._lengths.append(len(prompt) - 1)
        self._trim()

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        last = self._lengths.pop()
        if row < len(self._lengths):
            self._lengths[row] = last
            for layer in self._layers:
                layer.copy(len(self._lengths), row)
        self._trim()
        if not self._lengths:
            self._layers, self._used = [], _Columns()

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Logits (B, V) after one token more a row (B)."""
        self._make_room(len(self), 0, new=1)
        lengths = torch.tensor(self._lengths)[:, None]
        columns = torch.arange(self._used.width + 1)
        mask = (columns >= self._used.width - lengths).long().to(self._lm.device)
        told = {"position_ids": lengths.to(self._lm.device)} if self._lm.takes_positions else {}
        tokens = torch.tensor(ids, device=self._lm.device)[:, None]
        out = self._lm.model(input_ids=tokens, attention_mask=mask, use_cache=True, **told, **{CACHE: self._cache})
        self._used.end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return out.logits[:, -1]

    def _make_room(self, rows: int, width: int, new: int = 0) -> None:
        """For so many rows, the longest of a width, and columns behind them."""
        used, (most, columns) = self._used, self._layers[0].capacity
        if rows <= most and used.end >= width and used.end + new <= columns:
            return
        end = SPARE + max(width, used.width)
        for layer in self._layers:
            layer.move(1 << (rows - 1).bit_length(), end + SPARE, end)
        used.first, used.end = end - used.width, end

    def _trim(self) -> None:
        """The columns in use are those of the longest row."""
        self._used.rows = len(self._lengths)
        self._used.first = self._used.end - max(self._lengths, default=0)
