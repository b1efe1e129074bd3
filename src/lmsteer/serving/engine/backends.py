"""Rows: what a server writes, and the proof that side by side they are what each is alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.serving.engine.batch import Batch
from lmsteer.serving.engine.single import SingleRow

# By this share of their size a row's logits may differ from those of its text alone. Rounding is 1e-6 in float32 and
# 1e-2 in bfloat16; what looks at a wrong place differs by its whole size.
_TOLERANCE = 5e-2


class Backend(Protocol):
    """Rows of tokens that a model goes on with."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int:
        """What is kept of them."""
        ...

    def join(self, prompts: Sequence[Sequence[int]]) -> Iterator[int]:
        """Take prompts in behind the others, all but their last tokens; in pieces, between which rows go on."""
        ...

    def leave(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        ...

    def step(self, ids: Sequence[int]) -> Tensor:
        """Logits (B, V) after one more token a row (B)."""
        ...


def backend_for(lm: LM) -> tuple[Backend, int | None]:
    """The kind of rows that a model can go on with, proved on it; and how many there may be, None for any number.

    Raises:
        ModelError: the model does not go on from what it has kept as it would from the text.
    """
    if not lm.is_recurrent:
        if _exact(lm, Batch(lm, piece=4), (3, 1, 6)):
            return Batch(lm), None
    elif _exact(lm, SingleRow(lm), (3,)):
        return SingleRow(lm), 1
    raise ModelError(
        f"{type(lm.model).__name__} does not go on from its cache as it does from the text itself: it cannot be served."
    )


@torch.inference_mode()
def _exact(lm: LM, rows: Backend, lengths: Sequence[int]) -> bool:
    """Whether texts of such lengths, one joining after the other, get the logits that each gets alone."""
    texts: list[list[int]] = []
    for length in lengths:
        texts.append([1 + (7 * k + length) % 11 for k in range(length)])
        for _ in rows.join([texts[-1]]):
            pass
        for _ in range(2):
            found = rows.step([text[-1] for text in texts]).float()
            alone = [lm.model(input_ids=torch.tensor([text], device=lm.device), use_cache=False) for text in texts]
            expected = torch.cat([out.logits[:, -1] for out in alone]).float()
            if not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max():
                return False
            for text in texts:
                text.append(2 + len(text) % 5)
    return True
