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
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from lmsteer.generation.prefill import PREFILL_CHUNK, PromptChunk, read_prompts
from lmsteer.model.kv_cache import KVSlice, Start
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapter, RowAdapters
from lmsteer.util.compat import CACHE
from lmsteer.util.lists import swap_out

# Free columns on either side of those in use.
SPARE = 64


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


class Batch:
    """The backend for models of attention layers: any number of rows side by side.

    Sliding windows are kept by masks alone: all keys and values stay in the cache.

    Args:
        lm: the model.
        prefill_chunk: number of prompt tokens to read in one chunk, padding included.
    """

    def __init__(self, lm: LM, prefill_chunk: int = PREFILL_CHUNK) -> None:
        self._lm, self._prefill_chunk = lm, prefill_chunk
        self._used = _Used()
        # Of each row: its columns in use, and what is to be added for the position of its next token.
        self._lengths, self._offsets = list[int](), list[int]()
        self._adapters = list[RowAdapter | None]()
        # The same lengths, and the positions, (B,) on the model's device; None when rows have come or gone.
        self._resident: tuple[Tensor, Tensor] | None = None
        self._resident_adapters: RowAdapters | None = None
        self._layers = list[_Layer]()
        self._cache = Cache(layers=[])

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def bytes(self) -> int:
        """Size of the buffers of all layers in bytes, free columns included."""
        return sum(layer.bytes for layer in self._layers)

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Read new prompts in chunks; with the last chunk they become the last rows, without their last token.

        Yields:
            Each chunk. The caller may decode and remove rows in between.
        """
        for chunk in read_prompts(self._lm, starts, self._prefill_chunk):
            if not chunk.left:
                self._join(starts, chunk.states)
            yield chunk

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        swap_out(self._lengths, row)
        swap_out(self._offsets, row)
        swap_out(self._adapters, row)
        if row < len(self._lengths):
            for layer in self._layers:
                layer.copy_row(len(self._lengths), row)
        self._resident = self._resident_adapters = None
        self._trim()
        if not self._lengths:
            self._layers, self._used = [], _Used()

    @torch.inference_mode()
    def make_room(self) -> None:
        """Make room for one more token of each row."""
        self._make_room(len(self), 0, new=1)

    @torch.inference_mode()
    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (B, V) of the rows from ``first`` on after one more token for each (B,); see ``advance``.

        Rows of one length need no mask.
        """
        self.make_room()
        self._used.passing = slice(first, first + len(ids))
        if self._resident is None:
            lengths, offsets = torch.tensor([self._lengths, self._offsets], device=self._lm.device)
            self._resident = lengths, lengths + offsets
        lengths, positions = (each[self._used.passing, None] for each in self._resident)
        inputs = {"input_ids": ids[:, None], "use_cache": True, CACHE: self._cache}
        if min(self._lengths[self._used.passing]) < self._used.width:
            columns = torch.arange(self._used.width + 1, device=self._lm.device)
            inputs["attention_mask"] = (columns >= self._used.width - lengths).long()
        if self._lm.takes_positions:
            inputs["position_ids"] = positions
        with self._adapters_of(first, len(ids)).attached():
            return self._lm.model(**inputs).logits[:, -1]

    def advance(self) -> None:
        """Keep the tokens of the last forward passes: every row is longer by one."""
        for layer in self._layers:
            layer.end += 1
        self._lengths = [length + 1 for length in self._lengths]
        if self._resident is not None:
            self._resident = self._resident[0] + 1, self._resident[1] + 1
        self._trim()

    def _adapters_of(self, first: int, count: int) -> RowAdapters:
        """The adapters of some rows; those of all rows stay on the device."""
        if count < len(self):
            return RowAdapters.of(self._lm, self._adapters[first : first + count])
        if self._resident_adapters is None:
            self._resident_adapters = RowAdapters.of(self._lm, self._adapters)
        return self._resident_adapters

    def _join(self, starts: Sequence[Start], states: Sequence[KVSlice]) -> None:
        """Prompts that have been read become the last rows."""
        if not self._layers:
            self._layers = [_Layer(self._used, part) for part in zip(*states[0], strict=True)]
        self._cache = Cache(layers=list(self._layers))
        self._make_room(len(self) + len(starts), max(state.tokens for state in states))
        for row, state in enumerate(states, len(self)):
            for layer, part in zip(self._layers, zip(*state, strict=True), strict=True):
                layer.write_row(row, part)
        self._lengths += [state.tokens for state in states]
        self._offsets += [start.position - (start.kept.tokens if start.kept else 0) for start in starts]
        self._adapters += [start.adapter for start in starts]
        self._resident = self._resident_adapters = None
        self._trim()

    def _make_room(self, rows: int, width: int, new: int = 0) -> None:
        """Make the buffers of all layers larger if necessary; if memory is short, those of some layers."""
        for layer in self._layers:
            layer.make_room(rows, width, new)

    def _trim(self) -> None:
        """Narrow the part in use to the rows, and to the columns of the longest one."""
        self._used.rows, self._used.width = len(self._lengths), max(self._lengths, default=0)
