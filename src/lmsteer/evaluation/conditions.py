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

import torch

from lmsteer.baselines.baseline import Baseline
from lmsteer.data.chats import Prompt, after_instruction
from lmsteer.errors import DataError
from lmsteer.evaluation.interference import steer_evidence
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, continue_from, encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.generation.row import check_steering
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.reading.components import components
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import AnyStrength, Hold, Strengths, Windowed, parts_of, size_of, strengths_json

# Number of words at each end of a steer that make its list.
_LIST_SIZE = 100
# How much likelier the words of a list are made, in nats.
_LIST_STRENGTHS = (1.0, 2.0, 4.0)
# Number of unsteered continuations of which the best is taken.
_BEST_OF = 8
_UNSTEERED = "unsteered"
BASELINES = ("prompting", "words", "best-of-n")


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

    name: str = _UNSTEERED
    method: str = _UNSTEERED
    strength: float = 0.0

    @property
    def fingerprint(self) -> str:
        """The same for all: nothing acts."""
        return _UNSTEERED


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
        return _digest("steers", factors, strengths_json(self.strengths))


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
        return _digest("prefix", self.prefix, self.inner.fingerprint)

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
    candidates: int = _BEST_OF

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of the reader and the number of candidates."""
        return _digest("best-of-n", self.candidates, tensors_fingerprint(self.reader.factors))

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
        return _digest("baseline", self.baseline.fingerprint, self.strength)

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start where the baseline starts."""
        return self.baseline.prefill(lm, prompts, self.strength, new_tokens)


def conditions_of(
    lm: LM,
    steers: Mapping[str, Steer],
    strengths: Mapping[str, Sequence[AnyStrength]],
    baselines: Sequence[str] = (),
    prefixes: Sequence[str] = (),
) -> list[Condition]:
    """The conditions for some steers: unsteered, every strength of each steer alone, and the baselines of the first.

    Args:
        lm: the base of the steers.
        steers: the steers, by name; those after the first are compared with it, for example one of another method.
        strengths: the strengths of each steer's curve, by name; those within one window are a curve of their own.
        baselines: some of ``BASELINES``.
        prefixes: instructions for the -1 end and for the +1 end, for ``prompting``.

    Raises:
        DataError: there are no steers, one has no strengths or the name of a baseline, a baseline is unknown, or
            prompting has not two instructions.
    """
    if unknown := set(baselines) - set(BASELINES):
        raise DataError(f"unknown baselines {', '.join(sorted(unknown))}: there are {', '.join(BASELINES)}.")
    if reserved := {*BASELINES, _UNSTEERED} & steers.keys():
        raise DataError(f"a steer cannot be called {', '.join(sorted(reserved))} here: that is another condition.")
    if not steers or not all(strengths.get(name) for name in steers):
        raise DataError("there are no strengths to evaluate the steer at.")
    # Those of one size stay in the order in which they were given; at 0, within any window, the model is unsteered.
    acting = {name: [*filter(size_of, dict.fromkeys(strengths[name]))] for name in steers}
    curves = {
        name: [_steered(name, steer, strength) for strength in sorted(acting[name], key=size_of)]
        for name, steer in steers.items()
    }
    first = next(iter(steers))
    makers = {
        "prompting": lambda: _prompting(curves[first], prefixes),
        "words": lambda: _words(lm, steers[first]),
        "best-of-n": lambda: _best_of(steers[first]),
    }
    of_baselines = [condition for name in BASELINES if name in baselines for condition in makers[name]()]
    return [Unsteered(), *(condition for curve in curves.values() for condition in curve), *of_baselines]


def _steered(name: str, steer: Steer, strength: AnyStrength) -> Condition:
    if isinstance(strength, Hold):
        raise DataError(f"{name}: an evaluation measures strengths, and a hold has none of its own; leave it out.")
    curve = f"{name}@{strength.window}" if isinstance(strength, Windowed) else name
    return Steered(f"{name}={strength:+g}", curve, size_of(strength), {name: steer}, {name: strength})


def _prompting(curve: Sequence[Condition], prefixes: Sequence[str]) -> Iterator[Condition]:
    """Each instruction alone, and with the steer on its side."""
    if len(prefixes) != 2:
        raise DataError("prompting needs two instructions: for the -1 end and for the +1 end.")
    for sign, instruction in zip((-1.0, 1.0), prefixes, strict=True):
        prefix = instruction if instruction[-1:].isspace() else f"{instruction} "
        yield Prefixed(f"prompt {sign:+g}", "prompting", sign, prefix, Unsteered())
        for inner in curve:
            if inner.strength * sign > 0:
                method = f"prompting + {inner.method}"
                yield Prefixed(f"prompt & {inner.name}", method, inner.strength, prefix, inner)


def _words(lm: LM, steer: Steer) -> Iterator[Condition]:
    """The words at both ends of the steer's first component, made likelier and less likely by the same number."""
    (component,) = components(lm, Mix({"s": steer}, {"s": 1.0}), components=1, words=_LIST_SIZE)
    offset = torch.zeros(steer.vocabulary)
    for end, sign in ((component.upper, 1.0), (component.lower, -1.0)):
        offset[[word.token for word in end]] = sign
    words = Steer("offset", {"o": offset}, steer.hidden_size, steer.vocabulary, steer.card)
    for strength in (*(-s for s in _LIST_STRENGTHS[::-1]), *_LIST_STRENGTHS):
        yield Steered(f"words {strength:+g}", "words", strength, {"words": words}, {"words": strength})


def _best_of(steer: Steer) -> Iterator[Condition]:
    for sign in (-1.0, 1.0):
        yield BestOf(f"best of {_BEST_OF} {sign:+g}", "best-of-n", sign, steer)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
