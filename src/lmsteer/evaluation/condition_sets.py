"""Which conditions an evaluation compares: every strength of some steers, and the baselines that are named.

A steer at several strengths is compared with what it must beat: unsteered text, an instruction before the prompt (alone
and together with the steer), a list of words made likelier or less likely, the best of several unsteered continuations,
and combinations of the logits of several contexts (``ensembles``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from lmsteer.errors import DataError
from lmsteer.evaluation.conditions import BEST_OF, UNSTEERED, BestOf, Condition, Prefixed, Steered, Unsteered
from lmsteer.evaluation.ensembles import Greedier, contrastive_prompting, guidance
from lmsteer.model.lm import LM
from lmsteer.reading.components import components
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import AnyStrength, Hold, Windowed, size_of

# Number of words at each end of a steer that make its list.
_LIST_SIZE = 100
# How much likelier the words of a list are made, in nats.
_LIST_STRENGTHS = (1.0, 2.0, 4.0)
# Of contrasted prompts, and of guidance, where 1 is the instruction alone.
_CONTRASTS, _GUIDANCES = (0.5, 1.0, 2.0), (1.5, 2.0, 3.0)
# The shares of the probability that greedier text is drawn from.
_TOP_PS = (0.5, 0.7)
# Those that need an instruction for each end.
INSTRUCTED = ("prompting", "contrastive-prompting", "guidance")
BASELINES = ("prompting", "words", "best-of-n", "contrastive-prompting", "guidance", "greedier")


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
        prefixes: instructions for the -1 end and for the +1 end, for those of ``INSTRUCTED``.

    Raises:
        DataError: there are no steers, one has no strengths or the name of a baseline, a baseline is unknown, or
            prompting has not two instructions.
    """
    if unknown := set(baselines) - set(BASELINES):
        raise DataError(f"unknown baselines {', '.join(sorted(unknown))}: there are {', '.join(BASELINES)}.")
    if reserved := {*BASELINES, UNSTEERED} & steers.keys():
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
        "contrastive-prompting": lambda: _on_both_sides(contrastive_prompting, prefixes, _CONTRASTS),
        "guidance": lambda: _on_both_sides(guidance, prefixes, _GUIDANCES),
        "greedier": _greedier,
    }
    if (asked := [name for name in INSTRUCTED if name in baselines]) and len(prefixes) != 2:
        raise DataError(f"{asked[0]} needs two instructions: for the -1 end and for the +1 end.")
    of_baselines = [condition for name in BASELINES if name in baselines for condition in makers[name]()]
    return [Unsteered(), *(condition for curve in curves.values() for condition in curve), *of_baselines]


def _steered(name: str, steer: Steer, strength: AnyStrength) -> Condition:
    if isinstance(strength, Hold):
        raise DataError(f"{name}: an evaluation measures strengths, and a hold has none of its own; leave it out.")
    curve = f"{name}@{strength.window}" if isinstance(strength, Windowed) else name
    return Steered(f"{name}={strength:+g}", curve, size_of(strength), {name: steer}, {name: strength})


def _prompting(curve: Sequence[Condition], prefixes: Sequence[str]) -> Iterator[Condition]:
    """Each instruction alone, and with the steer on its side."""
    for sign, prefix in zip((-1.0, 1.0), _spaced(prefixes), strict=True):
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
        yield BestOf(f"best of {BEST_OF} {sign:+g}", "best-of-n", sign, steer)


def _on_both_sides(
    make: Callable[[str, str, float], Condition], prefixes: Sequence[str], sizes: Sequence[float]
) -> Iterator[Condition]:
    """What two instructions make, at several strengths of both signs."""
    negative, positive = _spaced(prefixes)
    for strength in (*(-size for size in reversed(sizes)), *sizes):
        yield make(negative, positive, strength)


def _greedier() -> Iterator[Condition]:
    for top_p in _TOP_PS:
        yield Greedier(f"top-p {top_p:g}", "greedier", 0.0, top_p)


def _spaced(prefixes: Sequence[str]) -> list[str]:
    """Instructions, each with a space after it."""
    return [each if each[-1:].isspace() else f"{each} " for each in prefixes]
