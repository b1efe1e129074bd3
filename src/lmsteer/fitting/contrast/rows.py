"""The rows of a contrast: states of the same tokens at one place of the model, read after four prompts.

At each token of a text, ``h`` is read after the request without an instruction and, a second time, without any prompt;
``h₊`` is read after the instruction of the positive end and ``h₋`` after that of the negative one. The place is the
head's input, or the stream after a layer. Where a steer acts before that place, ``h`` is read under it, too, at
strengths 1 and -1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lmsteer.fitting.contrast.prompts import Ids
from lmsteer.fitting.contrast.writing import ContrastText
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.inside import states_at
from lmsteer.model.lm import LM
from lmsteer.reading.after_prompt import AfterPrompt
from lmsteer.reading.encoded_text import EncodedText, own_tokens
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site
from lmsteer.steer.steer import Steer
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
        neutral: states after the neutral prompts (N, d).
        plain: states of the texts without a prompt (N, d).
        positive: states after the prompts of the positive end (N, d).
        negative: states after the prompts of the negative end (N, d).
        steered: states after the neutral prompts under the steer so far at strength 1 (N, d).
        opposed: the same at strength -1 (N, d).
        recent: the text's last tokens before each (N, k); -1 where it had fewer.
        subject: number of the subject of each (N,).
        is_one_sided: whether the negative end is the absence of the positive one.
    """

    neutral: Tensor
    plain: Tensor
    positive: Tensor
    negative: Tensor
    steered: Tensor
    opposed: Tensor
    recent: Tensor
    subject: Tensor
    is_one_sided: bool

    def __len__(self) -> int:
        return len(self.neutral)

    @property
    def shift(self) -> Tensor:
        """How the instructions move the states (N, d), beyond what the steer so far does.

        It is half the way between two ends, or the way to one.
        """
        difference = (self.positive - self.negative) - (self.steered - self.opposed)
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


def read_texts(
    lm: LM, texts: Sequence[ContrastText], progress: Progress, *, site: Site | None = None, steer: Steer | None = None
) -> Iterator[ContrastRows]:
    """Read each text after its prompts, some texts at a time.

    Args:
        lm: the model.
        texts: the texts.
        progress: reports how far the reading is.
        site: the place inside the model whose states are read; None for the head's input.
        steer: the steer so far, which acts before that place; None for none.
    """
    is_one_sided = all(text.prompts.negative == text.prompts.neutral for text in texts)

    def reader(pairs: Sequence[tuple[Ids, Ids]], strength: float = 0.0) -> _Reader:
        return _Reader.of(lm, pairs, site, Mix({"so far": steer}, {"so far": strength}) if steer and strength else None)

    after_neutral = [(text.prompts.neutral, text.ids) for text in texts]
    plain, neutral = reader([([lm.start_id], text.ids) for text in texts]), reader(after_neutral)
    positive = reader([(text.prompts.positive, text.ids) for text in texts])
    negative = neutral if is_one_sided else reader([(text.prompts.negative, text.ids) for text in texts])
    steered = reader(after_neutral, 1.0) if steer else neutral
    opposed = reader(after_neutral, -1.0) if steer and not is_one_sided else neutral
    readers = {
        "neutral": neutral,
        "plain": plain,
        "positive": positive,
        "negative": negative,
        "steered": steered,
        "opposed": opposed,
    }
    with progress("reading texts", sum(len(text.ids) for text in texts), 0) as step:
        for batch in length_buckets([[0] * (text.prompts.longest + len(text.ids)) for text in texts]):
            some = [texts[i] for i in batch]
            states = {each: each.states(batch) for each in dict.fromkeys(readers.values())}
            yield ContrastRows(
                **{name: states[each] for name, each in readers.items()},
                recent=torch.cat([_recent(text.ids) for text in some]),
                subject=torch.repeat_interleave(
                    torch.tensor([text.subject for text in some]), torch.tensor([len(text.ids) for text in some])
                ),
                is_one_sided=is_one_sided,
            )
            step(sum(len(text.ids) for text in some), "")


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads texts, each after a prompt of its own.

    Attributes:
        lm: the model.
        texts: the texts after their prompts.
        shared: reads after what all prompts begin with; None where that is short, or not what is read.
        site: the place inside the model whose states are read; None for the head's input.
        mix: the steers that act meanwhile.
    """

    lm: LM
    texts: Sequence[EncodedText]
    shared: AfterPrompt | None
    site: Site | None
    mix: Mix | None

    @classmethod
    def of(cls, lm: LM, pairs: Sequence[tuple[Ids, Ids]], site: Site | None, mix: Mix | None) -> _Reader:
        """A reader of pairs of a prompt and a text."""
        texts = [EncodedText.of([*prompt, *text], len(prompt), is_ended=False) for prompt, text in pairs]
        first = pairs[0][0]
        shared = first[: min(common_length(first, prompt) for prompt, _ in pairs)]
        is_shared = len(shared) >= _WORTH_SHARING and site is None and mix is None
        return cls(lm, texts, AfterPrompt(lm, shared) if is_shared else None, site, mix)

    def states(self, places: Sequence[int]) -> Tensor:
        """The states (N, d) that predict the tokens of some texts, text by text."""
        return torch.cat([states for _, states in run_in_halves(self._run, [self.texts[place] for place in places])])

    @torch.inference_mode()
    def _run(self, texts: Sequence[EncodedText]) -> Tensor:
        if self.shared is None:
            h = states_at(self.lm, texts, self.site, self.mix) if self.site else self.lm.predicting(texts, self.mix)[0]
            return h[own_tokens(texts).to(h.device)].float().cpu()
        known = self.shared.tokens
        states = self.shared.states([text[known:] for text in texts])
        return torch.cat([each[text.begin - known :] for each, text in zip(states, texts, strict=True)])


def _recent(ids: Ids) -> Tensor:
    """The last ``RECENT`` tokens before each token of a text (T, k), the last one first; -1 before its beginning."""
    padded = torch.tensor([-1] * RECENT + list(ids[:-1]))
    return padded.unfold(0, RECENT, 1).flip(1)
