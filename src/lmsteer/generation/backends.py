"""Backends: they keep what the model has read of the rows of a decoder, and are checked on the model before use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.generation.batch import Batch
from lmsteer.generation.prefill import PREFILL_CHUNK, PromptChunk
from lmsteer.generation.single import RereadRow, SingleRow
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.steer.hook import unsteered
from lmsteer.steer.thread_guard import exclusive_use

# Largest allowed difference between the logits from the cache and those of the whole text, relative to the logits'
# size. Rounding gives 1e-6 in float32 and 1e-2 in bfloat16; a wrong position gives about 1.
_TOLERANCE = 5e-2


class Backend(Protocol):
    """What the model has read of some rows, and its forward pass over one more token of each."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int:
        """Size of the cache in bytes."""
        ...

    def prefill(self, starts: Sequence[Start]) -> Iterator[PromptChunk]:
        """Read new prompts in chunks; with the last chunk they become the last rows, without their last token."""
        ...

    def remove(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        ...

    def make_room(self) -> None:
        """Make room for one more token of each row."""
        ...

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits (B, V) of the rows from ``first`` on after one more token for each (B,), on the model's device.

        The cache is as it was until ``advance`` is called: a forward pass that fails can be repeated for fewer rows.
        """
        ...

    def advance(self) -> None:
        """Keep the tokens of the last forward passes, one for each row."""
        ...


def backend_for(lm: LM, prefill_chunk: int = PREFILL_CHUNK) -> tuple[Callable[[], Backend], int | None]:
    """The backend that suits a model, checked on it: the first that gives the logits of whole texts.

    Args:
        lm: the model.
        prefill_chunk: number of prompt tokens to read in one chunk.

    Returns:
        A factory of empty backends, and the largest number of rows in one (None for any number).
    """
    with exclusive_use(lm.model):
        if lm.model not in _CHOSEN:
            with unsteered(lm.model):
                _CHOSEN[lm.model] = _chosen(lm)
    kind = _CHOSEN[lm.model]
    return (partial(Batch, lm, prefill_chunk), None) if kind is Batch else (partial(kind, lm), 1)


_Kind = type[Batch] | type[SingleRow] | type[RereadRow]
_CHOSEN = WeakKeyDictionary[nn.Module, _Kind]()


def _chosen(lm: LM) -> _Kind:
    if lm.is_recurrent and _is_exact(lm, SingleRow(lm), (3,)):
        return SingleRow
    if not lm.is_recurrent and _is_exact(lm, Batch(lm, prefill_chunk=4), (3, 1, 6)):
        return Batch
    warnings.warn(
        f"{type(lm.model).__name__} gives other logits from its cache than from the whole text: it writes one row at a "
        "time, and reads the whole text again for each token.",
        RuntimeWarning,
        stacklevel=2,
    )
    return RereadRow


@torch.inference_mode()
def _is_exact(lm: LM, backend: Backend, lengths: Sequence[int]) -> bool:
    """Whether texts of these lengths, admitted one after the other, get the logits that each gets alone."""
    try:
        return _has_logits_of_texts(lm, backend, lengths)
    except (TypeError, ValueError, AttributeError, LookupError, ModelError):  # a cache of another kind, or none
        return False


def _has_logits_of_texts(lm: LM, backend: Backend, lengths: Sequence[int]) -> bool:
    texts: list[list[int]] = []
    for length in lengths:
        texts.append([1 + (7 * k + length) % 11 for k in range(length)])
        for _ in backend.prefill([Start(texts[-1])]):
            pass
        for _ in range(2):
            batched = backend.forward(torch.tensor([text[-1] for text in texts], device=lm.device)).float()
            backend.advance()
            alone = [lm.model(input_ids=torch.tensor([text], device=lm.device), use_cache=False) for text in texts]
            expected = torch.cat([out.logits[:, -1] for out in alone]).float()
            if not (batched - expected).abs().max() <= _TOLERANCE * expected.abs().max():
                return False
            for text in texts:
                text.append(2 + len(text) % 5)
    return True
