"""Rows: what one pass of the frozen LM leaves of texts, one row for each predicted token.

A row holds the hidden state ``h`` that predicts the token and the residual ``r``, which is the gradient of the token's
log-likelihood with respect to ``h``. Neither depends on the text's label: another labelling of the same texts needs no
second pass. The rows of a text are neighbours, in reading order; ``hidden_rows`` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText

# In place of a text's first token where a prompt stands before the text: there every token of the text has a row.
AFTER_PROMPT = -2


@dataclass(frozen=True)
class PredictedTokens:
    """N predicted tokens of some texts. All fields but ``h`` and ``r`` are on the CPU.

    Attributes:
        h: hidden states (N, d), float32; fresh from the model on the device of its head.
        r: residuals (N, d), likewise.
        log_p: log-likelihood of each token under the unsteered model, in nats (N,).
        target: ids of the tokens (N,).
        is_end: whether the token is the end of its text (N,).
        first: at the first row of each text the id of the text's first token, which no row predicts, or
            ``AFTER_PROMPT``; -1 at all other rows (N,).
    """

    h: Tensor
    r: Tensor
    log_p: Tensor
    target: Tensor
    is_end: Tensor
    first: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> Self:
        """The same rows with their hidden states and residuals on a device."""
        return replace(self, h=self.h.to(device), r=self.r.to(device))


@dataclass(frozen=True)
class HiddenRows(PredictedTokens):
    """Rows of a batch of texts without labels.

    Attributes:
        text: index of the text that each token belongs to, within the batch (N,).
    """

    text: Tensor

    def labelled(self, texts: Sequence[LabelledText]) -> LabelledRows:
        """The same rows with the labels of their texts; ``texts`` are those of the batch."""
        label = torch.tensor([text.label for text in texts])[self.text]
        digest = torch.tensor([to_int64_pair(text.digest) for text in texts])[self.text]
        shared = {f.name: getattr(self, f.name) for f in fields(PredictedTokens)}
        return LabelledRows(**shared, label=label, digest=digest)

    @staticmethod
    def join(parts: Sequence[HiddenRows], sizes: Sequence[int]) -> HiddenRows:
        """Rows of several batches as those of one; ``sizes`` are the numbers of texts of the batches."""
        joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(PredictedTokens)}
        starts = [sum(sizes[:k]) for k in range(len(parts))]
        return HiddenRows(
            **joined, text=torch.cat([part.text + start for part, start in zip(parts, starts, strict=True)])
        )


@dataclass(frozen=True)
class LabelledRows(PredictedTokens):
    """Rows with the labels of their texts.

    Attributes:
        label: the text's label (N,).
        digest: the text's digest, as two int64 (N, 2); rows of one digest belong to one text.
    """

    label: Tensor
    digest: Tensor

    def without_residuals(self) -> LabelledRows:
        """The same rows with residuals of no width (N, 0)."""
        return replace(self, r=self.r.new_zeros(len(self), 0))

    def __getitem__(self, index: Tensor) -> LabelledRows:
        """Some rows, by a mask (N,) or by their places, on the CPU."""
        places = index.nonzero().flatten() if index.dtype == torch.bool else index
        elsewhere = places.to(self.h.device)  # a mask there would make the host wait for the device
        on_host = {f.name: getattr(self, f.name)[places] for f in fields(self) if f.name not in ("h", "r")}
        return LabelledRows(self.h[elsewhere], self.r[elsewhere], **on_host)

    def texts(self) -> tuple[Tensor, Tensor]:
        """Index of the text that each row belongs to (N,), in order of digest, and the label of each text."""
        unique, index = torch.unique(self.digest, dim=0, return_inverse=True)
        return index, torch.zeros(len(unique)).scatter_(0, index, self.label)

    def per_text(self, values: Tensor) -> Tensor:
        """Sums of ``values`` (N,) over the rows of each text, in order of digest."""
        index, labels = self.texts()
        return torch.zeros(len(labels), dtype=values.dtype).index_add_(0, index, values)

    def token_ids(self) -> tuple[list[list[int]], Tensor]:
        """The ids of each text, rebuilt from its rows, and the label of each text; in order of digest.

        The rows must be those of whole texts without prompts.
        """
        starts = (self.first >= 0).nonzero().flatten().tolist()
        targets, texts = self.target.tolist(), dict[tuple[int, ...], tuple[list[int], float]]()
        for start, end in pairwise([*starts, len(self)]):
            ids = [int(self.first[start]), *targets[start:end]]
            texts.setdefault(tuple(self.digest[start].tolist()), (ids, float(self.label[start])))
        ordered = [texts[digest] for digest in sorted(texts)]
        return [ids for ids, _ in ordered], torch.tensor([label for _, label in ordered])

    def after_prompt(self) -> Tensor:
        """Which rows are those of texts after prompts (N,); the rows must be those of whole texts."""
        starts = self.first != -1
        return (self.first[starts] == AFTER_PROMPT)[starts.cumsum(0) - 1]

    def first_texts(self, limit: int) -> LabelledRows:
        """The rows of the first texts by digest: as many texts as have ``limit`` rows together, and at least one."""
        index, _ = self.texts()
        reached = torch.bincount(index).cumsum(0)
        return self[((reached <= limit) | (reached == reached[:1]))[index]]

    @staticmethod
    def none(hidden_size: int) -> LabelledRows:
        """No rows."""
        wide, empty = torch.zeros(0, hidden_size), torch.zeros(0)
        ids = torch.zeros(0, dtype=torch.int64)
        return LabelledRows(wide, wide, empty, ids, ids.bool(), ids, empty, ids.reshape(0, 2))

    @staticmethod
    def join(parts: Sequence[LabelledRows]) -> LabelledRows:
        """Several blocks of rows as one."""
        names = [f.name for f in fields(LabelledRows)]
        return LabelledRows(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def to_int64_pair(digest: int) -> tuple[int, int]:
    """A 128-bit digest as two signed 64-bit integers, which sort in the same order."""
    high, low = divmod(digest, 1 << 64)
    return high - (1 << 63), low - (1 << 63)


def from_int64_pair(high: int, low: int) -> int:
    """The digest that ``to_int64_pair`` split."""
    return (high + (1 << 63) << 64) + low + (1 << 63)
