"""Layout: rows of a prompt, gist tokens and what follows them, and which section each token belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from lmsteer.model.batching import pad


class Section(IntEnum):
    """What a token is part of."""

    PROMPT = 0
    GIST = 1
    REST = 2


@dataclass(frozen=True)
class Layout:
    """B rows of T tokens.

    Attributes:
        ids: (B, T), with gist tokens numbered from the end of the model's vocabulary.
        mask: 1 for tokens, 0 for padding (B, T).
        positions: of each token in its row, padding left out of the count (B, T).
        sections: (B, T); padding counts as prompt.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    sections: Tensor

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        gist: Sequence[int],
        rests: Sequence[Sequence[int]],
        padding: int,
        device: torch.device,
        side: Literal["left", "right"] = "right",
    ) -> Layout:
        """Lay out prompts, each with the same gist tokens after it, and what follows.

        Args:
            prompts: ids of each row's prompt.
            gist: ids of the gist tokens.
            rests: ids of what follows them in each row.
            padding: id to pad with.
            device: of the tensors.
            side: where padding goes.
        """
        rows, kinds = [], []
        for prompt, rest in zip(prompts, rests, strict=True):
            rows.append([*prompt, *gist, *rest])
            kinds.append([Section.PROMPT] * len(prompt) + [Section.GIST] * len(gist) + [Section.REST] * len(rest))
        ids, mask = pad(rows, padding, device, side)
        sections, _ = pad(kinds, Section.PROMPT, device, side)
        return cls(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), sections)
