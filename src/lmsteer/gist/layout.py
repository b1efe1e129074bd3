"""Layout: rows of a prompt, gist tokens and a suffix, and the section that each token belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from lmsteer.model.batching import pad


class Section(IntEnum):
    """The part of a row that a token belongs to."""

    PROMPT = 0
    GIST = 1
    SUFFIX = 2


@dataclass(frozen=True)
class Layout:
    """A batch of B rows of T tokens.

    Attributes:
        ids: token ids (B, T); those of gist tokens are beyond the model's vocabulary.
        mask: 1 for tokens, 0 for padding (B, T).
        positions: position of each token in its row, not counting padding (B, T).
        sections: the section of each token (B, T); padding counts as prompt.
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
        suffixes: Sequence[Sequence[int]],
        padding: int,
        device: torch.device,
        side: Literal["left", "right"] = "right",
    ) -> Layout:
        """Lay out prompts, each followed by the same gist tokens and its suffix.

        Args:
            prompts: token ids of each row's prompt.
            gist: ids of the gist tokens.
            suffixes: token ids after the gist tokens, for each row.
            padding: id to pad with.
            device: device of the tensors.
            side: side of the padding.
        """
        rows, kinds = [], []
        for prompt, suffix in zip(prompts, suffixes, strict=True):
            rows.append([*prompt, *gist, *suffix])
            kinds.append([Section.PROMPT] * len(prompt) + [Section.GIST] * len(gist) + [Section.SUFFIX] * len(suffix))
        ids, mask = pad(rows, padding, device, side)
        sections, _ = pad(kinds, Section.PROMPT, device, side)
        return cls(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), sections)
