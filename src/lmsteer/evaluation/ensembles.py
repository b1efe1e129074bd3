"""Rivals at decoding time: each token is drawn from a weighted sum of the logits of several contexts.

::

    z = Σ_k w_k z_k
    contrastive prompting        z + s (z₊ - z₋)            after two instructions, and after none
    classifier-free guidance     z + s (z₊ - z)             after one instruction, and after none (Sanchez et al., 2023)
    DExperts                     z + s (z₊ - z₋)            under an expert and an anti-expert (Liu et al., 2021)

What a steer adds to the logits by a product with its factors, these compute by further passes of the model: the
contexts of a row are rows of one batch, so a token costs as much as that of two or three rows. Words say what stands
before a context's prompt; the experts are one method (``lmsteer.baselines``, such as a LoRA) at both of its ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from lmsteer.baselines.baseline import Baseline
from lmsteer.data.chats import Prompt, after_instruction
from lmsteer.errors import DataError, ModelError
from lmsteer.evaluation.conditions import Condition, digest
from lmsteer.generation.backends import backend_for
from lmsteer.generation.batch import Batch
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import Continuation, encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.generation.row import row_noise
from lmsteer.generation.sampling import OVERFLOW, RowSettings, draw
from lmsteer.generation.writing import NotFiniteError
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class Context(ABC):
    """One of the contexts of a row.

    Attributes:
        weight: w, the weight of its logits.
    """

    weight: float

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A fingerprint of what makes this context, without its weight."""

    @abstractmethod
    def starts(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> list[Start]:
        """Where each prompt's continuations start in this context.

        Args:
            lm: the model.
            prompts: the prompts.
            new_tokens: the number of tokens that will follow.

        Raises:
            DataError: a prompt is empty or too long.
            ModelError: rows of one batch cannot have this context each.
            WrongBaseError: what acts was fitted on another base.
            SteerError: what acts does not have this strength.
        """


@dataclass(frozen=True)
class AfterWords(Context):
    """Words stand before the prompt; in a chat they begin the system message.

    Attributes:
        words: the words, with the space after them; none if empty.
    """

    words: str = ""

    @property
    def fingerprint(self) -> str:
        """The words."""
        return self.words

    def starts(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> list[Start]:
        """The prompts after the words."""
        asked = [after_instruction(prompt, self.words) if self.words else prompt for prompt in prompts]
        return [Start(ids) for ids in encode_prompts(lm, asked, new_tokens)]


@dataclass(frozen=True)
class UnderBaseline(Context):
    """Another method acts on the row, such as a LoRA.

    Attributes:
        baseline: the method.
        strength: its strength.
    """

    baseline: Baseline
    strength: float

    @property
    def fingerprint(self) -> str:
        """A fingerprint of what the method stores, and its strength."""
        return f"{self.baseline.fingerprint} {self.strength:g}"

    def starts(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> list[Start]:
        """The prompts, each behind where rows of the method start."""
        before = self.baseline.for_rows(lm)(self.strength)
        ids = encode_prompts(lm, prompts, new_tokens + self.baseline.context)
        return [replace(before, ids=[*before.ids, *each]) for each in ids]


@dataclass(frozen=True)
class Ensemble(Condition):
    """Each token is drawn from the weighted sum of the logits of some contexts, the first of which is the plain one.

    Attributes:
        contexts: the contexts.
    """

    contexts: Sequence[Context] = field(default_factory=tuple)

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of the contexts and their weights."""
        return digest("ensemble", [(context.weight, context.fingerprint) for context in self.contexts])

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start at the prompts as they are; refuse those that one of the contexts cannot have.

        Raises:
            ModelError: the model writes one row at a time; or as ``Context.starts``.
            DataError, WrongBaseError, SteerError: as ``Context.starts``.
        """
        if backend_for(lm)[1] is not None:
            raise ModelError(f"{type(lm.model).__name__} writes one row at a time, and {self.method} needs several.")
        starts = [context.starts(lm, prompts, new_tokens) for context in self.contexts]
        return Prefill(starts[0])

    @torch.inference_mode()
    def continuations(
        self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig
    ) -> Iterator[Continuation]:
        """Continue prompts, all contexts of a row in one batch.

        Raises:
            DataError: limits, readings or stop strings are asked for, which act on steers.
            NotFiniteError: the logits are not finite numbers.
        """
        if config.limits.on or config.readings or config.stop or config.score:
            raise DataError(f"{self.method} has no limits, readings, likelihoods or stop strings: leave them out.")
        starts = [context.starts(lm, prompts, config.max_new_tokens) for context in self.contexts]
        rows = [(place, sample) for place in range(len(prompts)) for sample in range(config.num_samples)]
        size = max(config.batch_size // len(self.contexts), 1)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            noise = torch.stack([row_noise(config.seed, *row, config.max_new_tokens) for row in some])
            own = [of_context[place] for of_context in starts for place, _ in some]
            for (place, sample), ids in zip(some, self._written(lm, own, noise, config.sampling), strict=True):
                text = lm.codec.decode(ids)
                yield Continuation(prompts[place], text, {self.method: self.strength}, sample, len(ids), float("nan"))

    def _written(self, lm: LM, starts: Sequence[Start], noise: Tensor, sampling: SamplingConfig) -> list[list[int]]:
        """The tokens of each row up to its end; ``starts`` are those of all rows, context by context."""
        settings = RowSettings.of([sampling] * len(noise), len(lm.head.weight), lm.device)
        batch, last = Batch(lm), torch.tensor([start.ids[-1] for start in starts], device=lm.device)
        written: list[list[int]] = [[] for _ in noise]
        with lm.exclusive_use():
            for _ in batch.prefill(starts):
                pass
            for own in noise.T:
                logits = batch.forward(last).chunk(len(self.contexts))
                z = sum(context.weight * each for context, each in zip(self.contexts, logits, strict=True))
                tokens = draw(torch.as_tensor(z), own, settings)
                batch.advance()
                last = tokens.to(last.device).repeat(len(self.contexts))
                if self._add(lm, written, tokens.tolist()):
                    break
        return written

    def _add(self, lm: LM, written: Sequence[list[int]], tokens: Sequence[int]) -> bool:
        """Add a token to each row that has not ended; whether all have ended."""
        for row, token in zip(written, tokens, strict=True):
            if row and row[-1] in lm.stop_ids:
                continue
            if token == OVERFLOW:
                raise NotFiniteError(f"{self.name}: the logits are not finite numbers: lower the strength.")
            row.append(token)
        return all(row[-1] in lm.stop_ids for row in written)


def contrastive_prompting(negative: str, positive: str, strength: float) -> Ensemble:
    """``z + s (z₊ - z₋)``: after the instructions for both ends, and after none.

    Args:
        negative: the words before the prompt for the -1 end.
        positive: the words for the +1 end.
        strength: s.
    """
    contexts = (AfterWords(1.0), AfterWords(strength, positive), AfterWords(-strength, negative))
    return Ensemble(f"contrastive prompts {strength:+g}", "contrastive prompting", strength, contexts)


def guidance(negative: str, positive: str, strength: float) -> Ensemble:
    """Classifier-free guidance, ``z + |s| (z₊ - z)``: towards the instruction of the end on the side of s.

    At a strength of one it is the instruction alone.

    Args:
        negative: the words before the prompt for the -1 end.
        positive: the words for the +1 end.
        strength: s.
    """
    size, words = abs(strength), positive if strength > 0 else negative
    return Ensemble(f"guidance {strength:+g}", "guidance", strength, (AfterWords(1.0 - size), AfterWords(size, words)))


def dexperts(baseline: Baseline, strength: float, end: float = 1.0) -> Ensemble:
    """DExperts, ``z + s (z₊ - z₋)``: the model under one method at both of its ends, and under none.

    Args:
        baseline: the method: a LoRA or another that rows of one batch can have each (``Baseline.for_rows``).
        strength: s, α of the paper.
        end: the strength of the method that makes the expert; the anti-expert has its negative.
    """
    experts = (UnderBaseline(strength, baseline, end), UnderBaseline(-strength, baseline, -end))
    return Ensemble(f"dexperts {strength:+g}", f"dexperts of {baseline.method}", strength, (AfterWords(1.0), *experts))


@dataclass(frozen=True)
class Greedier(Condition):
    """Unsteered text that is drawn from fewer tokens: what sampling alone does to a score and a perplexity.

    Attributes:
        top_p: in place of the protocol's.
    """

    top_p: float

    @property
    def fingerprint(self) -> str:
        """The share of the probability that is drawn from."""
        return f"top-p {self.top_p:g}"

    def continuations(
        self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig
    ) -> Iterator[Continuation]:
        """Continue prompts from the likeliest tokens."""
        sampling = replace(config.sampling, top_p=self.top_p)
        yield from super().continuations(lm, prompts, prefill, replace(config, sampling=sampling))
