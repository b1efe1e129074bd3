"""The rows of a contrast: states of the same tokens at one place of the model, read after four prompts.

At each token of a text, ``h`` is read after the request without an instruction and, a second time, without any prompt;
``h₊`` is read after the instruction of the positive end and ``h₋`` after that of the negative one. The place is the
head's input, or the stream after a layer. Where a steer acts before that place, ``h`` is read under it, too, at
strength 1, and with two ends at -1. For a linear layer it is the stream after the layer of the model that it is in, and
the linear layer's own input is read with ``h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from lmsteer.fitting.contrast.prompts import Ids
from lmsteer.fitting.contrast.writing import ContrastText
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.inside import passing_at
from lmsteer.model.lm import LM
from lmsteer.reading.after_prompt import AfterPrompt
from lmsteer.reading.encoded_text import EncodedText, own_tokens
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site, find_site
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
        negative: states after the prompts of the negative end (N, d); with one end, the neutral ones.
        under_steer: states under a steer that acts before this place: (neutral, plain) at strength 1, and with two ends
            at -1; empty without such a steer.
        inputs: what a linear layer reads, (neutral, plain), each (N, n); empty where the map reads the states.
        recent: the text's last tokens before each (N, k); -1 where it had fewer.
        is_one_sided: whether the negative end is the absence of the positive one.
    """

    neutral: Tensor
    plain: Tensor
    positive: Tensor
    negative: Tensor
    under_steer: tuple[tuple[Tensor, Tensor], ...]
    inputs: tuple[Tensor, ...]
    recent: Tensor
    is_one_sided: bool

    def __len__(self) -> int:
        return len(self.neutral)

    @property
    def shift(self) -> Tensor:
        """How the instructions move the states (N, d): half the way between two ends, or the way to one."""
        difference = self.positive - self.negative
        return difference if self.is_one_sided else difference / 2

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What a map reads, x (N, n), and the shifts (N, d) that it should make of the states at strength 1.

        After a steer that acts before this place, the shift is what is missing. x is read without that steer: if the
        map read off x which way it is steered, its own shift would grow with the square of the strength.
        """
        moved = self._moved_by_steer()
        for k, x in enumerate(self.inputs or (self.neutral, self.plain)):
            yield x, self.shift - moved[k] if moved else self.shift

    def _moved_by_steer(self) -> list[Tensor]:
        """How the steer before this place moves the neutral and the plain states, each (N, d); none without one."""
        if not self.under_steer:
            return []
        if self.is_one_sided:
            ((neutral, plain),) = self.under_steer
            return [neutral - self.neutral, plain - self.plain]
        up, down = self.under_steer
        return [(one - other) / 2 for one, other in zip(up, down, strict=True)]

    def __getitem__(self, index: Tensor | slice) -> Self:
        return self._of([self], lambda parts: parts[0][index])

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, of which there is at least one."""
        return cls._of(parts, torch.cat)

    @classmethod
    def _of(cls, parts: Sequence[Self], combine: Callable[[list[Tensor]], Tensor]) -> Self:
        def combined(values: Sequence[Any]) -> Any:
            if isinstance(values[0], tuple):
                return tuple(combined(each) for each in zip(*values, strict=True))
            return combine([*values]) if isinstance(values[0], Tensor) else values[0]

        return cls(**{name: combined([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def read_texts(
    lm: LM, texts: Sequence[ContrastText], progress: Progress, *, site: Site | None = None, steer: Steer | None = None
) -> Iterator[ContrastRows]:
    """Read each text after its prompts, some texts at a time.

    Args:
        lm: the model.
        texts: the texts.
        progress: reports how far the reading is.
        site: the place inside the model whose states are read: a stream, or the one behind a linear layer; None for
            the head's input.
        steer: a steer that acts before that place; None for none.
    """
    is_one_sided = all(text.prompts.negative == text.prompts.neutral for text in texts)
    after_neutral = [(text.prompts.neutral, text.ids) for text in texts]
    without = [([lm.start_id], text.ids) for text in texts]

    def reader(pairs: Sequence[tuple[Ids, Ids]], mix: Mix | None = None) -> _Reader:
        return _Reader.of(lm, pairs, site, mix)

    neutral, plain = reader(after_neutral), reader(without)
    positive = reader([(text.prompts.positive, text.ids) for text in texts])
    negative = neutral if is_one_sided else reader([(text.prompts.negative, text.ids) for text in texts])
    mixes = [Mix({"before": steer}, {"before": s}) for s in ((1.0,) if is_one_sided else (1.0, -1.0))] if steer else []
    steered = [(reader(after_neutral, mix), reader(without, mix)) for mix in mixes]
    with progress("reading texts", sum(len(text.ids) for text in texts), 0) as step:
        for batch in length_buckets([[0] * (text.prompts.longest + len(text.ids)) for text in texts]):
            h, x = neutral.passing(batch)
            alone, alone_x = plain.passing(batch)
            yield ContrastRows(
                neutral=h,
                plain=alone,
                positive=positive.states(batch),
                negative=h if negative is neutral else negative.states(batch),
                under_steer=tuple((one.states(batch), other.states(batch)) for one, other in steered),
                inputs=(x, alone_x) if site and site.is_weight else (),
                recent=torch.cat([_recent(texts[i].ids) for i in batch]),
                is_one_sided=is_one_sided,
            )
            step(len(h), "")


@dataclass(frozen=True)
class _Reader:
    """Reads texts, each after a prompt of its own.

    Attributes:
        lm: the model.
        texts: the texts after their prompts.
        shared: reads after what all prompts begin with; None where that is short, or not what is read.
        site: the place inside the model, as in ``read_texts``.
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
        return self._joined(self._states, places)[0]

    def passing(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The states (N, d) that predict the tokens of some texts, and what a map reads there (N, n), text by text."""
        if self.site is None or not self.site.is_weight:
            states = self.states(places)
            return states, states
        states, inputs = self._joined(partial(self._passing, self.site), places)
        return states, inputs

    def _joined(self, run: Callable[[Sequence[EncodedText]], Sequence[Tensor]], places: Sequence[int]) -> list[Tensor]:
        parts = [part for _, part in run_in_halves(run, [self.texts[place] for place in places])]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    @torch.inference_mode()
    def _states(self, texts: Sequence[EncodedText]) -> tuple[Tensor]:
        if self.shared is not None:
            known = self.shared.tokens
            found = self.shared.states([text[known:] for text in texts])
            return (torch.cat([each[text.begin - known :] for each, text in zip(found, texts, strict=True)]),)
        if self.site is None:
            return (_own(texts, self.lm.predicting(texts, self.mix)[0]),)
        stream = find_site(self.lm.model, self.site.layer)
        return (_own(texts, passing_at(self.lm, texts, [stream], self.mix)[stream.name].y),)

    @torch.inference_mode()
    def _passing(self, site: Site, texts: Sequence[EncodedText]) -> tuple[Tensor, Tensor]:
        stream = find_site(self.lm.model, site.layer)
        seen = passing_at(self.lm, texts, [stream, site], self.mix)
        return _own(texts, seen[stream.name].y), _own(texts, seen[site.name].x)


def _own(texts: Sequence[EncodedText], values: Tensor) -> Tensor:
    """Of values (N', n) at all predicted tokens those at the texts' own tokens, float32 on the CPU."""
    return values[own_tokens(texts).to(values.device)].float().cpu()


def _recent(ids: Ids) -> Tensor:
    """The last ``RECENT`` tokens before each token of a text (T, k), the last one first; -1 before its beginning."""
    padded = torch.tensor([-1] * RECENT + list(ids[:-1]))
    return padded.unfold(0, RECENT, 1).flip(1)
