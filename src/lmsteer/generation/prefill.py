"""Prefill: prompts are read side by side, all but their last tokens, in chunks; equal prompts are read once.

::

    kept tokens   . g g g            a gist, say: their keys and values are known
    ids           a b c d e f | g    the model reads a to f here; g is read with the first step of the decoder
                  chunk chunk

A prompt's keys and values are the same whatever steers act on the head for the rows that continue it: no cached key or
value depends on the output embeddings. Under a steer that acts inside the model, a prompt has others at each strength.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import KVSlice, Start, placed_kv, read_on, shortest_window, slice_kv, stack_kv
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapters
from lmsteer.steer.mix import row_by_row
from lmsteer.util.devices import is_host

# Prompt tokens read between two decoding steps, padding included: running rows wait that long at most. An accelerator
# reads thousands in the time of a few steps.
PREFILL_CHUNK, _ON_AN_ACCELERATOR = 256, 2048


def prefill_chunk(device: torch.device) -> int:
    """How many prompt tokens are read between two decoding steps on a device."""
    return PREFILL_CHUNK if is_host(device) else _ON_AN_ACCELERATOR


@dataclass(frozen=True)
class Prefill:
    """Where rows start, and the model that they run on.

    Attributes:
        starts: the start of each prompt, from which several rows may continue.
        installed: prepares the model (installs an adapter, say) for as long as a ``with`` block.
    """

    starts: Sequence[Start]
    installed: Callable[[], AbstractContextManager[None]] = nullcontext

    @classmethod
    def of_ids(cls, ids: Sequence[Sequence[int]]) -> Prefill:
        """Rows that start at prompts in tokens, with nothing before them."""
        return cls([Start(each) for each in ids])


class PromptChunk(NamedTuple):
    """A chunk of prompts that has been read.

    Attributes:
        left: number of columns left to read.
        hidden: hidden states (n, d) at the head's input of the next n tokens of each prompt.
        states: with the last chunk, the keys and values of each prompt without its last token; before, nothing.
    """

    left: int
    hidden: Sequence[Tensor]
    states: Sequence[KVSlice] = ()


@torch.inference_mode()
def read_prompts(lm: LM, starts: Sequence[Start], chunk: int = PREFILL_CHUNK) -> Iterator[PromptChunk]:
    """Read prompts, all but their last tokens.

    Args:
        lm: the model.
        starts: the prompts.
        chunk: number of prompt tokens to read at once, padding included.
    """
    keys = [
        (tuple(start.ids), id(start.kept), start.position, id(start.adapter), _inside_key(start)) for start in starts
    ]
    unique = dict(zip(keys, starts, strict=True))
    # Of one token after kept ones nothing is to be read.
    alone = {key: start.kept for key, start in unique.items() if start.kept is not None and len(start.ids) == 1}
    states = {key: placed_kv(lm, kept) for key, kept in alone.items()}
    groups = _groups(lm, {key: start for key, start in unique.items() if key not in states})
    left, nothing = sum(_width(group.values()) for group in groups), torch.zeros(0, lm.hidden_size)
    if not groups:
        yield PromptChunk(0, [nothing for _ in keys], [states[key] for key in keys])
    for group in groups:
        left -= _width(group.values())
        for part in _read(lm, [*group.values()], chunk):
            states |= zip(group, part.states, strict=False)
            hidden = dict(zip(group, part.hidden, strict=True))
            is_last = not left + part.left
            yield PromptChunk(
                left + part.left,
                [hidden.get(key, nothing) for key in keys],
                [states[key] for key in keys] if is_last else (),
            )


_Key = tuple[tuple[int, ...], int, int, int, tuple[tuple[int, float], ...]]


def _inside_key(start: Start) -> tuple[tuple[int, float], ...]:
    """What acts inside the model while a prompt is read."""
    if start.inside is None:
        return ()
    steers, strengths = start.inside
    return tuple((id(steer), strengths[name]) for name, steer in steers.items())


def _groups(lm: LM, unique: dict[_Key, Start]) -> list[dict[_Key, Start]]:
    """The prompts that are read side by side: those after nothing, and those after kept tokens.

    Where the model has a sliding window, prompts after kept tokens are read one at a time, since the padding between
    would push the kept tokens out of the window.
    """
    after_nothing = {key: start for key, start in unique.items() if start.kept is None}
    after_kept = {key: start for key, start in unique.items() if start.kept is not None}
    is_alone = shortest_window(lm) is not None
    groups = [after_nothing, *([{key: start} for key, start in after_kept.items()] if is_alone else [after_kept])]
    return [group for group in groups if group]


def _read_ids(start: Start) -> Sequence[int]:
    """The ids that are read: all but the last; but the last if it is the only one, for the shape of its states."""
    return start.ids[: max(1, len(start.ids) - 1)]


def _width(starts: Iterable[Start]) -> int:
    return max(len(_read_ids(start)) for start in starts)


def _read(lm: LM, starts: Sequence[Start], chunk: int) -> Iterator[PromptChunk]:
    """Read different prompts side by side."""
    reads, cache = [_read_ids(start) for start in starts], DynamicCache()
    ids, mask = pad(reads, lm.pad_id, lm.device, "left")
    begin = torch.tensor([[start.position] for start in starts], device=ids.device)
    positions, room = begin + (mask.cumsum(1) - 1).clamp(min=0), 0
    if kept := [start.kept for start in starts if start.kept is not None]:
        cache, before = stack_kv(lm, kept, whole=True)
        mask, room = torch.cat([before, mask], 1), before.shape[1]
    adapters = RowAdapters.of(lm, [start.adapter for start in starts])
    inside = [start.inside or ({}, {}) for start in starts]
    steering = row_by_row(inside) if any(steers for steers, _ in inside) else None
    width, size = ids.shape[1], max(1, chunk // len(starts))
    for first in range(0, width, size):
        columns = slice(first, min(first + size, width))
        with lm.exclusive_use(), adapters.attached():
            h = read_on(lm, ids[:, columns], mask[:, : room + columns.stop], positions[:, columns], cache, steering)
        hidden = [h[row, max(0, width - len(read) - first) :] for row, read in enumerate(reads)]
        is_last = columns.stop == width
        yield PromptChunk(width - columns.stop, hidden, _states(cache, starts, room) if is_last else ())


def _states(cache: DynamicCache, starts: Sequence[Start], room: int) -> list[KVSlice]:
    """The keys and values of rows that have been read, without their last tokens; kept ones end at column ``room``."""
    found = []
    for row, start in enumerate(starts):
        read = len(_read_ids(start))
        tokens = read if start.kept is None else room + _width(starts)
        states = slice_kv(cache, row, tokens)
        own = states.columns(tokens - read, tokens - read + len(start.ids) - 1)
        found.append(own if start.kept is None else states.columns(room - start.kept.tokens, room).followed_by(own))
    return found
