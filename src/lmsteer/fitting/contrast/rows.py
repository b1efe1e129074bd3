"""The rows of a contrast: hidden states of the same tokens, read after three prompts.

At each token of a text, ``h`` is read after the neutral prompt, ``h₊`` after that of the positive end and ``h₋`` after
that of the negative one. The difference that the instructions make there, in place of a label, is a dense target over
the whole vocabulary::

    r = Σ_v (p(v | h₊) - p(v | h₋)) post'(z_v) e_v                                        (d,)

It is 0 where the two ends do not differ, so that such tokens weigh nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import torch
from torch import Tensor

from lmsteer.fitting.contrast.prompts import Ids
from lmsteer.fitting.contrast.writing import ContrastText
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import EncodedText, own_tokens
from lmsteer.util.progress import Progress


@dataclass(frozen=True)
class ContrastRows:
    """One row for each token of some texts, float32 on the CPU.

    Attributes:
        neutral: hidden states after the neutral prompts (N, d).
        positive: hidden states after the prompts of the positive end (N, d).
        negative: hidden states after the prompts of the negative end (N, d).
        subject: number of the subject of each (N,).
    """

    neutral: Tensor
    positive: Tensor
    negative: Tensor
    subject: Tensor

    def __len__(self) -> int:
        return len(self.neutral)

    def __getitem__(self, index: Tensor | slice) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """The rows of all parts."""
        listed = list(parts)
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in listed]) for f in fields(cls)})


def read_texts(lm: LM, texts: Sequence[ContrastText], progress: Progress) -> ContrastRows:
    """Read each text after its three prompts."""
    tokens = sum(len(text.ids) for text in texts)
    parts = []
    with progress("reading texts", tokens, 0) as step:
        for batch in length_buckets([[0] * (text.prompts.longest + len(text.ids)) for text in texts]):
            some = [texts[i] for i in batch]
            ids = [text.ids for text in some]
            before = [text.prompts for text in some]
            neutral = _states(lm, [prompts.neutral for prompts in before], ids)
            positive = _states(lm, [prompts.positive for prompts in before], ids)
            is_one_sided = all(prompts.negative == prompts.neutral for prompts in before)
            negative = neutral if is_one_sided else _states(lm, [prompts.negative for prompts in before], ids)
            subject = torch.repeat_interleave(
                torch.tensor([text.subject for text in some]), torch.tensor(list(map(len, ids)))
            )
            parts.append(ContrastRows(neutral, positive, negative, subject))
            step(len(neutral), "")
    return ContrastRows.join(parts)


def _states(lm: LM, prompts: Sequence[Ids], texts: Sequence[Ids]) -> Tensor:
    """The hidden states (N, d) that predict the tokens of texts, text by text, each text after its prompt."""
    encoded = [
        EncodedText.of([*prompt, *text], len(prompt), is_ended=False)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return torch.cat([states for _, states in run_in_halves(partial(_run, lm), encoded)])


@torch.inference_mode()
def _run(lm: LM, texts: Sequence[Sequence[int]]) -> Tensor:
    h, _ = lm.predicting(texts)
    return h[own_tokens(texts).to(h.device)].float().cpu()
