"""Backends: they keep the cache of the running sequences, and are checked on the model before they serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.batch import PREFILL_CHUNK, Batch, PromptChunk
from lmsteer.serving.engine.single import SingleRow
from lmsteer.steer.hook import unsteered

# Largest allowed difference between the logits from the cache and those of the whole text, relative to the logits'
# size. Rounding gives 1e-6 in float32 and 1e-2 in bfloat16; a wrong position gives about 1.
_TOLERANCE = 5e-2


class Backend(Protocol):
    """The cache of the sequences in a batch, and the model's forward pass over it."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int:
        """Size of the cache in bytes."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Iterator[PromptChunk]:
        """Read new prompts in chunks; with the last chunk they become the last rows, without their last token."""
        ...

    def remove(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        ...

    def make_room(self) -> None:
        """Make room for one more token of each row."""
        ...

    def forward(self, ids: Sequence[int], first: int = 0) -> Tensor:
        """Logits (B, V) of the rows from ``first`` on after one more token for each (B).

        The cache is as it was until ``advance`` is called: a forward pass that fails can be repeated for fewer rows.
        """
        ...

    def advance(self) -> None:
        """Keep the tokens of the last forward passes, one for each row."""
        ...


def backend_for(lm: LM, prefill_chunk: int = PREFILL_CHUNK) -> tuple[Callable[[], Backend], int | None]:
    """The backend that suits a model, checked on it.

    Args:
        lm: the model.
        prefill_chunk: number of prompt tokens to read in one chunk.

    Returns:
        A factory of empty backends, and the largest number of sequences in one (None for any number).

    Raises:
        ModelError: the model's logits from its cache differ from those of the whole text.
    """
    with unsteered(lm.model):
        if not lm.is_recurrent:
            if _is_exact(lm, Batch(lm, prefill_chunk=4), (3, 1, 6)):
                return partial(Batch, lm, prefill_chunk=prefill_chunk), None
        elif _is_exact(lm, SingleRow(lm), (3,)):
            return partial(SingleRow, lm), 1
    raise ModelError(
        f"{type(lm.model).__name__} gives other logits from its cache than from the whole text: it cannot be served."
    )


@torch.inference_mode()
def _is_exact(lm: LM, backend: Backend, lengths: Sequence[int]) -> bool:
    """Whether texts of these lengths, admitted one after the other, get the logits that each gets alone."""
    texts: list[list[int]] = []
    for length in lengths:
        texts.append([1 + (7 * k + length) % 11 for k in range(length)])
        for _ in backend.prefill([texts[-1]]):
            pass
        for _ in range(2):
            batched = backend.forward([text[-1] for text in texts]).float()
            backend.advance()
            alone = [lm.model(input_ids=torch.tensor([text], device=lm.device), use_cache=False) for text in texts]
            expected = torch.cat([out.logits[:, -1] for out in alone]).float()
            if not (batched - expected).abs().max() <= _TOLERANCE * expected.abs().max():
                return False
            for text in texts:
                text.append(2 + len(text) % 5)
    return True
