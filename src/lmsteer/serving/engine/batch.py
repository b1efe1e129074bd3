"""A batch whose rows are added and removed between tokens.

All rows end at the same column of the keys and values, and begin where their own length says; what stands before is
masked. Around the columns in use there are free ones, so that a new token, and a new row that is no longer than the
others, are written in place and nothing is copied::

    buffer [ . . . . . . . . . . . . ]
    row 0  [ . . a b c d e f . . . . ]
    row 1  [ . . - - - x y z . . . . ]       -: masked
                 first     end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import read_on, slice_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE

# Free columns on either side of those in use.
SPARE = 64
# Prompt tokens read between two decoding steps, padding included: the running sequences wait that long at most.
PREFILL_CHUNK = 256


@dataclass
class _Used:
    """The part of the buffers in use, the same in all layers.

    Attributes:
        rows: number of rows.
        width: number of columns.
        passing: the rows of the forward pass.
    """

    rows: int = 0
    width: int = 0
    passing: slice = field(default_factory=lambda: slice(0))


class _Layer(DynamicLayer):
    """A layer's keys and values in buffers of their own, (rows, heads, columns, d_head) each.

    What stands before the columns of a row is finite: it is masked, but 0 times nan would be nan.

    Attributes:
        end: the column that the columns in use end at. A layer has its own, because there may be no memory to resize
            the next one.
    """

    def __init__(self, used: _Used, like: tuple[Tensor, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._used, self._buffers = used, [part.new_empty(0, part.shape[0], 0, part.shape[2]) for part in like]
        self.end = 0
        self.is_initialized = True

    @property
    def bytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind the columns in use; returns all keys and all values of the passing rows.

        The next ones are written to the same place, unless ``end`` is moved.
        """
        rows, first, end = self._used.passing, self.end - self._used.width, self.end + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[rows, :, self.end : end] = states
        keys, values = (buffer[rows, :, first:end] for buffer in self._buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """Number of columns in use."""
        return self._used.width

    def make_room(self, rows: int, width: int, new: int) -> None:
        """Make the buffers larger if ``rows`` rows of ``width`` columns, or ``new`` more columns, do not fit."""
        used, (capacity, _, columns, _) = self._used, self._buffers[0].shape
        if rows <= capacity and self.end >= width and self.end + new <= columns:
            return
        end = SPARE + max(width, used.width)
        larger = []
        for buffer in self._buffers:
            larger.append(buffer.new_zeros(1 << (rows - 1).bit_length(), buffer.shape[1], end + SPARE, buffer.shape[3]))
            larger[-1][: used.rows, :, end - used.width : end] = buffer[
                : used.rows, :, self.end - used.width : self.end
            ]
        self._buffers, self.end = larger, end

    def write_row(self, row: int, states: tuple[Tensor, Tensor]) -> None:
        """Write one row's keys and values (heads, length, d_head), so that they end where the others end."""
        for buffer, part in zip(self._buffers, states, strict=True):
            start = self.end - part.shape[1]
            buffer[row, :, :start] = 0
            buffer[row, :, start : self.end] = part

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for buffer in self._buffers:
            buffer[target, :, : self.end] = buffer[source, :, : self.end]


class PromptChunk(NamedTuple):
    """A chunk of new prompts that has been read.

    Attributes:
        left: number of columns left to read; with 0, the prompts have become rows.
        hidden: hidden states (n, d) at the head's input of the next n tokens of each prompt.
    """

    left: int
    hidden: Sequence[Tensor]


class Batch:
    """The backend for models of attention layers: any number of rows side by side.

    Sliding windows are kept by masks alone: all keys and values stay in the cache.

    Args:
        lm: the model.
        prefill_chunk: number of prompt tokens to read in one chunk, padding included.
    """

    def __init__(self, lm: LM, prefill_chunk: int = PREFILL_CHUNK) -> None:
        self._lm, self._prefill_chunk = lm, prefill_chunk
        self._used, self._lengths = _Used(), list[int]()
        self._layers = list[_Layer]()
        self._cache = Cache(layers=[])

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        """Size of the buffers of all layers in bytes, free columns included."""
        return sum(layer.bytes for layer in self._layers)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Iterator[PromptChunk]:
        """Read new prompts in chunks; with the last chunk they become the last rows, without their last token.

        Yields:
            Each chunk. The caller may decode and remove rows in between.
        """
        unique = list(dict.fromkeys(map(tuple, prompts)))
        places = [unique.index(tuple(prompt)) for prompt in prompts]
        ids, mask = pad(unique, self._lm.pad_id, self._lm.device, "left")
        positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache()
        width, chunk = ids.shape[1], max(1, self._prefill_chunk // len(unique))
        for first in range(0, width, chunk):
            columns = slice(first, first + chunk)
            h = read_on(self._lm, ids[:, columns], mask[:, : columns.stop], positions[:, columns], cache)
            hidden = [h[i, max(0, width - len(unique[i]) - first) :] for i in places]
            if columns.stop < width:
                yield PromptChunk(width - columns.stop, hidden)
        states = [[*zip(*slice_kv(cache, i, len(prompt)), strict=True)] for i, prompt in enumerate(unique)]
        self._layers = self._layers or [_Layer(self._used, part) for part in states[0]]
        self._cache = Cache(layers=list(self._layers))
        self._make_room(len(self) + len(prompts), max(map(len, prompts)))
        for row, i in enumerate(places, len(self)):
            for layer, (keys, values) in zip(self._layers, states[i], strict=True):
                layer.write_row(row, (keys[:, :-1], values[:, :-1]))
        self._lengths += [len(prompt) - 1 for prompt in prompts]
        self._trim()
        yield PromptChunk(0, hidden)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        last = self._lengths.pop()
        if row < len(self._lengths):
            self._lengths[row] = last
            for layer in self._layers:
                layer.copy_row(len(self._lengths), row)
        self._trim()
        if not self._lengths:
            self._layers, self._used = [], _Used()

    @torch.inference_mode()
    def make_room(self) -> None:
        """Make room for one more token of each row."""
        self._make_room(len(self), 0, new=1)

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], first: int = 0) -> Tensor:
        """Logits (B, V) of the rows from ``first`` on after one more token for each (B); see ``advance``."""
        self.make_room()
        self._used.passing = slice(first, first + len(ids))
        lengths = torch.tensor(self._lengths[self._used.passing])[:, None]
        columns = torch.arange(self._used.width + 1)
        mask = (columns >= self._used.width - lengths).long().to(self._lm.device)
        positions = {"position_ids": lengths.to(self._lm.device)} if self._lm.takes_positions else {}
        tokens = torch.tensor(ids, device=self._lm.device)[:, None]
        out = self._lm.model(input_ids=tokens, attention_mask=mask, use_cache=True, **positions, **{CACHE: self._cache})
        return out.logits[:, -1]

    def advance(self) -> None:
        """Keep the tokens of the last forward passes: every row is longer by one."""
        for layer in self._layers:
            layer.end += 1
        self._lengths = [length + 1 for length in self._lengths]
        self._trim()

    def _make_room(self, rows: int, width: int, new: int = 0) -> None:
        """Make the buffers of all layers larger if necessary; if memory is short, those of some layers."""
        for layer in self._layers:
            layer.make_room(rows, width, new)

    def _trim(self) -> None:
        """Narrow the part in use to the rows, and to the columns of the longest one."""
        self._used.rows, self._used.width = len(self._lengths), max(self._lengths, default=0)
