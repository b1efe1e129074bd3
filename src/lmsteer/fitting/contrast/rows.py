"""The rows of a contrast: hidden states of the same tokens, read after four prompts.

At each token of a text, ``h`` is read after the request without an instruction and, a second time, without any prompt;
``h₊`` is read after the instruction of the positive end and ``h₋`` after that of the negative one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from lmsteer.fitting.contrast.prompts import Ids
from lmsteer.fitting.contrast.writing import ContrastText
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.lm import LM
from lmsteer.reading.after_prompt import states_after
from lmsteer.reading.encoded_text import EncodedText, own_tokens
from lmsteer.util.lists import common_length
from lmsteer.util.progress import Progress

# A text's last tokens, which a steer must not learn to repeat.
RECENT = 8
# A shorter beginning of all prompts is read again with each.
_WORTH_SHARING = 8


@dataclass(frozen=True)
class ContrastRows:
    """One row for each token of some texts, float32 on the CPU.

    Attributes:
        neutral: hidden states after the neutral prompts (N, d).
        plain: hidden states of the texts without a prompt (N, d).
        positive: hidden states after the prompts of the positive end (N, d).
        negative: hidden states after the prompts of the negative end (N, d).
        recent: the text's last tokens before each (N, k); -1 where it had fewer.
        subject: number of the subject of each (N,).
        is_one_sided: whether the negative end is the absence of the positive one.
    """

    neutral: Tensor
    plain: Tensor
    positive: Tensor
    negative: Tensor
    recent: Tensor
    subject: Tensor
    is_one_sided: bool

    def __len__(self) -> int:
        return len(self.neutral)

    @property
    def shift(self) -> Tensor:
        """How the instructions move the hidden states (N, d): half the way between two ends, or the way to one."""
        difference = self.positive - self.negative
        return difference if self.is_one_sided else difference / 2

    def __getitem__(self, index: Tensor | slice) -> Self:
        return self._with({name: tensor[index] for name, tensor in self._tensors().items()})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, of which there is at least one."""
        tensors = [part._tensors() for part in parts]
        return parts[0]._with({name: torch.cat([each[name] for each in tensors]) for name in tensors[0]})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _with(self, tensors: dict[str, Tensor]) -> Self:
        return type(self)(**tensors, is_one_sided=self.is_one_sided)


def read_texts(lm: LM, texts: Sequence[ContrastText], progress: Progress) -> Iterator[ContrastRows]:
    """Read each text after its prompts, some texts at a time."""
    is_one_sided = all(text.prompts.negative == text.prompts.neutral for text in texts)
    with progress("reading texts", sum(len(text.ids) for text in texts), 0) as step:
        for batch in length_buckets([[0] * (text.prompts.longest + len(text.ids)) for text in texts]):
            some = [texts[i] for i in batch]
            ids = [text.ids for text in some]
            before = [text.prompts for text in some]
            neutral = _states(lm, [prompts.neutral for prompts in before], ids)
            yield ContrastRows(
                neutral=neutral,
                plain=_states(lm, [[lm.start_id]] * len(ids), ids),
                positive=_states(lm, [prompts.positive for prompts in before], ids),
                negative=neutral if is_one_sided else _states(lm, [prompts.negative for prompts in before], ids),
                recent=torch.cat([_recent(text) for text in ids]),
                subject=torch.repeat_interleave(
                    torch.tensor([text.subject for text in some]), torch.tensor(list(map(len, ids)))
                ),
                is_one_sided=is_one_sided,
            )
            step(len(neutral), "")


def _recent(ids: Ids) -> Tensor:
    """The last ``RECENT`` tokens before each token of a text (T, k), the last one first; -1 before its beginning."""
    padded = torch.tensor([-1] * RECENT + list(ids[:-1]))
    return padded.unfold(0, RECENT, 1).flip(1)


def _states(lm: LM, prompts: Sequence[Ids], texts: Sequence[Ids]) -> Tensor:
    """The hidden states (N, d) that predict the tokens of texts, text by text, each text after its prompt."""
    encoded = [
        EncodedText.of([*prompt, *text], len(prompt), is_ended=False)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return torch.cat([states for _, states in run_in_halves(partial(_run, lm), encoded)])


@torch.inference_mode()
def _run(lm: LM, texts: Sequence[EncodedText]) -> Tensor:
    # What all prompts begin with, which is half of a prompt and more, is read once.
    first, *others = [text[: text.begin] for text in texts]
    shared = first[: min((common_length(first, other) for other in others), default=None)]
    if len(shared) < _WORTH_SHARING:
        h, _ = lm.predicting(texts)
        return h[own_tokens(texts).to(h.device)].float().cpu()
    states = states_after(lm, shared, [text[len(shared) :] for text in texts])
    return torch.cat([each[text.begin - len(shared) :] for each, text in zip(states, texts, strict=True)])
