"""Rows: what one pass of the frozen LM leaves of labelled texts, one row a predicted token.

A text is read to its end: after its last token stands the end-of-text token, whose likelihood is part of
the text's. For each token that is predicted from something before it, a row holds the hidden state ``h``
that predicts it and the residual ``r`` (the gradient of its log-likelihood with respect to ``h``). Neither
depends on the label: another labelling of the same texts needs no second pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets
from lmsteer.model.lm import LM
from lmsteer.util.progress import notice


@dataclass(frozen=True)
class Predicted:
    """N predicted tokens of some texts, float32 on the CPU.

    Attributes:
        h: hidden states (N, d).
        r: residuals (N, d).
        log_p: log-likelihood of the token, unsteered (N,).
        target: the token's id (N,).
        is_end: whether the token is the end of its text (N,).
    """

    h: Tensor
    r: Tensor
    log_p: Tensor
    target: Tensor
    is_end: Tensor

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class HiddenRows(Predicted):
    """What a pass leaves of some texts before they have labels.

    Attributes:
        text: which of the texts each token is of (N,), counted from 0.
    """

    text: Tensor

    def labelled(self, texts: Sequence[LabelledText]) -> LabelledRows:
        """The rows of these texts, with their labels."""
        label = torch.tensor([text.label for text in texts])[self.text]
        digest = torch.tensor([to_int64_pair(text.digest) for text in texts])[self.text]
        return LabelledRows(self.h, self.r, self.log_p, self.target, self.is_end, label, digest)


@dataclass(frozen=True)
class LabelledRows(Predicted):
    """Predicted tokens with the labels of their texts.

    Attributes:
        label: the text's label (N,).
        digest: the text's digest, as two int64 (N, 2); equal rows belong to one text.
    """

    label: Tensor
    digest: Tensor

    def __getitem__(self, index: Tensor) -> LabelledRows:
        return LabelledRows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def texts(self) -> tuple[Tensor, Tensor]:
        """Which text each row belongs to (N,), counted from 0 in order of digest, and the texts' labels."""
        unique, index = torch.unique(self.digest, dim=0, return_inverse=True)
        return index, torch.zeros(len(unique)).scatter_(0, index, self.label)

    def per_text(self, values: Tensor) -> Tensor:
        """Sums over each text's rows of ``values`` (N,), in order of digest."""
        index, labels = self.texts()
        return torch.zeros(len(labels), dtype=values.dtype).index_add_(0, index, values)

    def first_texts(self, limit: int) -> LabelledRows:
        """The rows of the first texts by digest, as many as have ``limit`` rows together, and of one at least."""
        index, _ = self.texts()
        reached = torch.bincount(index).cumsum(0)
        return self[((reached <= limit) | (reached == reached[:1]))[index]]

    @staticmethod
    def none(hidden_size: int) -> LabelledRows:
        """No rows."""
        wide, empty = torch.zeros(0, hidden_size), torch.zeros(0)
        ids = torch.zeros(0, dtype=torch.int64)
        return LabelledRows(wide, wide, empty, ids, ids.bool(), empty, ids.reshape(0, 2))

    @staticmethod
    def join(parts: Sequence[LabelledRows]) -> LabelledRows:
        """Several blocks of rows as one."""
        return LabelledRows(
            **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(LabelledRows)}
        )


def readable(
    lm: LM, texts: Sequence[LabelledText], max_tokens: int | None = None
) -> tuple[list[LabelledText], list[list[int]]]:
    """The texts that a pass reads, each once, with their ids: those that have a token to predict.

    Raises:
        DataError: as ``encode_with_end``.
    """
    unique = list({labelled.digest: labelled for labelled in texts}.values())
    pairs = [pair for pair in zip(unique, encode_with_end(lm, unique, max_tokens), strict=True) if len(pair[1]) > 1]
    return [text for text, _ in pairs], [ids for _, ids in pairs]


def encode_with_end(lm: LM, texts: Sequence[LabelledText], max_tokens: int | None = None) -> list[list[int]]:
    """Ids of each text up to and including the end-of-text token.

    Args:
        lm: the model.
        texts: the labelled texts.
        max_tokens: cut longer texts to this many tokens (a cut text gets no end); None cuts none.

    Raises:
        DataError: texts longer than the model's context, where none may be cut.
    """
    if max_tokens is not None and max_tokens < 2:
        raise DataError(f"texts cannot be cut to {max_tokens} tokens; two is the least.")
    encoded = lm.encode([labelled.text for labelled in texts])
    end = lm.end_id
    limit = min(max_tokens or lm.max_length, lm.max_length)
    too_long = [i for i, ids in enumerate(encoded) if len(ids) >= limit]
    if too_long and max_tokens is None:
        raise DataError(
            f"{len(too_long)} texts are longer than the model's context of {limit} tokens, the first of them text "
            f"{too_long[0] + 1} ({len(encoded[too_long[0]])} tokens); cut them with --max-tokens {limit}."
        )
    ended = [ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in encoded]
    return [ids[:limit] for ids in ended]


def batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """The batches of a pass, always the same for the same texts, so that an interrupted pass can go on."""
    readable = [i for i, text in enumerate(ids) if len(text) > 1]
    return [[readable[j] for j in batch] for batch in length_buckets([ids[i] for i in readable])]


def states_of(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    """Run one batch of texts (their ids, two at least each) through the model; in halves, where memory is short.

    Raises:
        DataError: memory is short for a single text.
    """
    try:
        return _run(lm, ids)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        if len(ids) == 1:
            raise DataError(
                f"out of memory on a text of {len(ids[0])} tokens: cut texts with --max-tokens, or free memory."
            ) from error
    half = len(ids) // 2
    notice(f"out of memory on a batch of {len(ids)} texts; trying it in halves ...")
    first, second = states_of(lm, ids[:half]), states_of(lm, ids[half:])
    second = replace(second, text=second.text + half)
    return HiddenRows(
        **{f.name: torch.cat([getattr(part, f.name) for part in (first, second)]) for f in fields(HiddenRows)}
    )


@torch.inference_mode()
def _run(lm: LM, ids: Sequence[Sequence[int]]) -> HiddenRows:
    h, target = lm.predicting(ids)
    h = h.float()
    r, log_p = lm.head.residuals(h, target)
    text = torch.repeat_interleave(torch.tensor([len(tokens) - 1 for tokens in ids]))
    is_last = torch.cat([text[1:] != text[:-1], torch.ones(1, dtype=torch.bool)])
    end = lm.end_id
    is_end = is_last & (target.cpu() == (-1 if end is None else end))
    return HiddenRows(h.cpu(), r.cpu(), log_p.cpu(), target.cpu(), is_end, text)


def gather(lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> Iterator[LabelledRows]:
    """Rows of all texts, a batch at a time."""
    for batch in batches(ids):
        yield states_of(lm, [ids[i] for i in batch]).labelled([texts[i] for i in batch])


def to_int64_pair(digest: int) -> tuple[int, int]:
    """A 128-bit digest as two signed 64-bit words, in the same order."""
    high, low = divmod(digest, 1 << 64)
    return high - (1 << 63), low - (1 << 63)


def from_int64_pair(high: int, low: int) -> int:
    """The digest that ``to_int64_pair`` cut up."""
    return (high + (1 << 63) << 64) + low + (1 << 63)
