"""Arms of an evaluation: the ways of turning a style that are compared on the same prompts.

Beside a steer at several strengths stand what it must beat: nothing at all, an instruction before the prompt (and the
same under the steer), a list of words made likelier or less likely, and the best of several unsteered continuations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from lmsteer.baselines.baseline import Baseline
from lmsteer.errors import DataError
from lmsteer.generation.decoding import Prefill, PromptPrefill
from lmsteer.generation.generate import encode_prompts
from lmsteer.model.lm import LM
from lmsteer.reading.components import components
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer

# Words of each end of a steer that make its list.
_LISTED = 100
# How much likelier the words of a list are made, in nats.
_LIST_STRENGTHS = (1.0, 2.0, 4.0)
# Of so many unsteered continuations the best is taken.
_BEST_OF = 8
_UNSTEERED = "unsteered"
BASELINES = ("prompting", "words", "best-of-n")


@dataclass(frozen=True)
class Condition:
    """One way of writing.

    Attributes:
        name: of the arm, for tables and files.
        method: what arms of one curve have in common.
        strength: where on its curve it stands.
        steers: by name.
        strengths: of the steers.
        prefix: put before each prompt.
        best_of: so many continuations are written for each that is kept.
        reader: the steer that tells which of them is kept: that of most evidence times ``strength``'s sign.
        rival: what acts at ``strength`` in place of steers.
    """

    name: str
    method: str
    strength: float
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    prefix: str = ""
    best_of: int = 1
    reader: Steer | None = None
    rival: Baseline | None = None

    def starts(self, lm: LM, prompts: Sequence[str], new: int) -> Prefill:
        """Where continuations of prompts, of so many tokens, begin.

        Raises:
            DataError: a prompt that is empty or too long.
            WrongBaseError: a rival of another base.
            SteerError: a strength that the rival cannot have.
        """
        given = [self.prefix + prompt for prompt in prompts]
        if self.rival is not None:
            return self.rival.starts(lm, given, self.strength, new)
        return PromptPrefill(lm, encode_prompts(lm, given, new))


def conditions_of(
    lm: LM,
    steers: Mapping[str, Steer],
    strengths: Mapping[str, Sequence[float]],
    baselines: Sequence[str] = (),
    prefixes: Sequence[str] = (),
) -> list[Condition]:
    """The arms of some steers, each by itself: unsteered, every strength of each, and the baselines of the first.

    Args:
        lm: their base.
        steers: by name; those after the first are rivals of it, such as one by another method.
        strengths: of each steer's curve, by name.
        baselines: some of ``BASELINES``.
        prefixes: instructions for the -1 end and the +1 end, for ``prompting``.

    Raises:
        DataError: no steers, or one without strengths, or called like another way; an unknown baseline; prompting
            without two instructions.
    """
    if unknown := set(baselines) - set(BASELINES):
        raise DataError(f"unknown baselines {', '.join(sorted(unknown))}: there are {', '.join(BASELINES)}.")
    if taken := {*BASELINES, _UNSTEERED} & steers.keys():
        raise DataError(
            f"a steer cannot be called {', '.join(sorted(taken))} here, where that is another way of writing."
        )
    if not steers or not all(strengths.get(name) for name in steers):
        raise DataError("no strengths to evaluate the steer at.")
    curves = {
        name: [_steered(name, steer, strength) for strength in sorted(set(strengths[name]) - {0.0})]
        for name, steer in steers.items()
    }
    first = next(iter(steers))
    found = {
        "prompting": lambda: _prompting(curves[first], prefixes),
        "words": lambda: _words(lm, steers[first]),
        "best-of-n": lambda: _best_of(steers[first]),
    }
    of_baselines = [arm for baseline in BASELINES if baseline in baselines for arm in found[baseline]()]
    return [Condition(_UNSTEERED, _UNSTEERED, 0.0), *(arm for curve in curves.values() for arm in curve), *of_baselines]


def _steered(name: str, steer: Steer, strength: float) -> Condition:
    return Condition(f"{name}={strength:+g}", name, strength, {name: steer}, {name: strength})


def _prompting(curve: Sequence[Condition], prefixes: Sequence[str]) -> Iterator[Condition]:
    """Each instruction alone, and with the steer on its side."""
    if len(prefixes) != 2:
        raise DataError("prompting needs two instructions: for the -1 end and for the +1 end.")
    for sign, instruction in zip((-1.0, 1.0), prefixes, strict=True):
        prefix = instruction if instruction[-1:].isspace() else f"{instruction} "
        yield Condition(f"prompt {sign:+g}", "prompting", sign, prefix=prefix)
        for arm in curve:
            if arm.strength * sign > 0:
                yield replace(arm, name=f"prompt & {arm.name}", method=f"prompting + {arm.method}", prefix=prefix)


def _words(lm: LM, steer: Steer) -> Iterator[Condition]:
    """The words at both ends of the steer's first component, made likelier and less likely by as many nats."""
    (component,) = components(lm, Mix({"s": steer}, {"s": 1.0}), components=1, words=_LISTED)
    offset = torch.zeros(steer.vocabulary)
    for end, sign in ((component.upper, 1.0), (component.lower, -1.0)):
        offset[[word.token for word in end]] = sign
    listed = Steer("offset", {"o": offset}, steer.hidden_size, steer.vocabulary, steer.card)
    for strength in (*(-s for s in _LIST_STRENGTHS[::-1]), *_LIST_STRENGTHS):
        yield Condition(f"words {strength:+g}", "words", strength, {"words": listed}, {"words": strength})


def _best_of(steer: Steer) -> Iterator[Condition]:
    for sign in (-1.0, 1.0):
        yield Condition(f"best of {_BEST_OF} {sign:+g}", "best-of-n", sign, best_of=_BEST_OF, reader=steer)
