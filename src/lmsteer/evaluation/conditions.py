"""Conditions of an evaluation: the ways of generating that are compared on the same prompts.

A steer at several strengths is compared with what it must beat: unsteered text, an instruction before the prompt (alone
and together with the steer), a list of words made likelier or less likely, the best of several unsteered continuations,
and other methods (``lmsteer.baselines``).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lmsteer.baselines.baseline import Baseline
from lmsteer.data.chats import Prompt, after_instruction
from lmsteer.evaluation.interference import steer_evidence
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, continue_from, encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.generation.row import check_steering
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, parts_of, strengths_json

# Number of unsteered continuations of which the best is taken.
BEST_OF = 8
UNSTEERED = "unsteered"


@dataclass(frozen=True)
class Condition(ABC):
    """One way of generating.

    Attributes:
        name: the condition's name, for tables and files.
        method: the name of the curve that it belongs to.
        strength: its place on that curve.
    """

    name: str
    method: str
    strength: float

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A fingerprint of what acts: conditions of one name and different steers have different ones."""

    @property
    def steering(self) -> tuple[Mapping[str, Steer], Strengths]:
        """The steers that act, by name, and their strengths; none by default."""
        return {}, {}

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start continuations of prompts; by default at the prompts as they are.

        Args:
            lm: the model.
            prompts: prompts to continue.
            new_tokens: number of tokens that will follow.

        Raises:
            DataError: a prompt is empty or too long.
            WrongBaseError: what acts was fitted on another base.
            SteerError: what acts does not have this strength.
        """
        steers, strengths = self.steering
        check_steering(lm, steers, strengths, new_tokens)
        for prompt in prompts:
            begins_thinking(lm, prompt, parts_of([strengths]))
        return Prefill.of_ids(encode_prompts(lm, prompts, new_tokens))

    def generate(self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig) -> list[str]:
        """Continue prompts: ``config.num_samples`` texts for each, in order of prompts."""
        return [row.text for row in self.continuations(lm, prompts, prefill, config)]

    def continuations(
        self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig
    ) -> Iterator[Continuation]:
        """Continue prompts: all continuations, with their numbers of tokens."""
        steers, strengths = self.steering
        return continue_from(lm, prompts, prefill, steers, [dict(strengths)], config)


@dataclass(frozen=True)
class Unsteered(Condition):
    """The model without a steer."""

    name: str = UNSTEERED
    method: str = UNSTEERED
    strength: float = 0.0

    @property
    def fingerprint(self) -> str:
        """The same for all: nothing acts."""
        return UNSTEERED


@dataclass(frozen=True)
class Steered(Condition):
    """The model under steers.

    Attributes:
        steers: the steers, by name.
        strengths: the strength of each.
    """

    steers: Mapping[str, Steer]
    strengths: Strengths

    @property
    def steering(self) -> tuple[Mapping[str, Steer], Strengths]:
        """The steers and their strengths."""
        return self.steers, self.strengths

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of factors and strengths."""
        factors = {name: tensors_fingerprint(steer.factors) for name, steer in self.steers.items()}
        return digest("steers", factors, strengths_json(self.strengths))


@dataclass(frozen=True)
class Prefixed(Condition):
    """Another condition with words before each prompt; in a chat they begin the system message.

    Attributes:
        prefix: the words, with the space after them.
        inner: the condition that continues the prefixed prompts.
    """

    prefix: str
    inner: Condition

    @property
    def steering(self) -> tuple[Mapping[str, Steer], Strengths]:
        """The steers of the inner condition."""
        return self.inner.steering

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of the words and the inner condition."""
        return digest("prefix", self.prefix, self.inner.fingerprint)

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start at the prefixed prompts."""
        return self.inner.prefill(lm, [after_instruction(prompt, self.prefix) for prompt in prompts], new_tokens)


@dataclass(frozen=True)
class BestOf(Condition):
    """The best of several unsteered continuations: the one with most evidence on the side of ``strength``'s sign.

    Attributes:
        reader: the steer that reads the evidence.
        candidates: number of continuations of which one is taken.
    """

    reader: Steer
    candidates: int = BEST_OF

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of the reader and the number of candidates."""
        return digest("best-of-n", self.candidates, tensors_fingerprint(self.reader.factors))

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start at the prompts as they are.

        Raises:
            DataError: a prompt is empty or too long.
            WrongBaseError: the reader was fitted on another base.
        """
        lm.check_base(Mix({"reader": self.reader}, {"reader": self.strength}))
        return super().prefill(lm, prompts, new_tokens)

    def generate(self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig) -> list[str]:
        """Continue prompts: the best of ``candidates`` texts for each that is returned."""
        many = replace(config, num_samples=config.num_samples * self.candidates)
        texts = super().generate(lm, prompts, prefill, many)
        (evidence,) = steer_evidence(lm, {"reader": self.reader}, texts).tolist()
        groups = [range(start, start + self.candidates) for start in range(0, len(texts), self.candidates)]
        return [texts[max(group, key=lambda k: self.strength * evidence[k])] for group in groups]


@dataclass(frozen=True)
class BaselineCondition(Condition):
    """A baseline at a strength.

    Attributes:
        baseline: the baseline.
    """

    baseline: Baseline

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of what the baseline stores, and the strength."""
        return digest("baseline", self.baseline.fingerprint, self.strength)

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start where the baseline starts."""
        return self.baseline.prefill(lm, prompts, self.strength, new_tokens)


def digest(*parts: object) -> str:
    """A fingerprint of parts that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
