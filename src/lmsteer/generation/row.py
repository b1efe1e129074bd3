"""A row: what is to be written, from where, under which steers, with which random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.generation.config import NO_LIMITS, Limits, SamplingConfig
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.steer.hook import sites_steered
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Hold, Strengths, check_strengths, sizes_of, window_of
from lmsteer.steer.window import ALL
from lmsteer.util.seeds import stable_seed


def row_noise(seed: int, prompt: int, sample: int, length: int) -> Tensor:
    """The random numbers (T,) in [0, 1) of a row, which depend on the seed, the prompt and the sample alone.

    They are the same at every strength, in every batch, and in every version of Python.

    Args:
        seed: any integer.
        prompt: the number of the prompt, from 0.
        sample: the number of the sample among those of its prompt and strengths, from 0.
        length: T, the number of tokens.
    """
    return torch.rand(length, generator=torch.Generator().manual_seed(stable_seed(seed, prompt, sample)))


def check_steering(
    lm: LM,
    steers: Mapping[str, Steer],
    strengths: Strengths,
    tokens: float = math.inf,
    *,
    limits: Limits = NO_LIMITS,
    readings: bool = False,
) -> None:
    """Refuse steers and strengths that cannot act on a model's rows.

    Args:
        lm: the model.
        steers: the steers, by name.
        strengths: the strength of each.
        tokens: the number of tokens that a row can have.
        limits: how far the steers may move each token.
        readings: whether readings are asked for.

    Raises:
        SteerError: a strength is missing or not a finite number, or a hold is of a steer without a reader, or without
            a safe range or a largest strength, or a window begins after the last token; or limits, readings, a hold or
            a window are asked for with a steer that acts inside the model; or the model is steered inside already.
        WrongBaseError: a steer was fitted on another base.
    """
    mix = Mix(steers, sizes_of(strengths))
    lm.check_base(mix)
    held = any(isinstance(strength, Hold) for strength in strengths.values())
    for what, is_on in (("a limit", bool(limits.on)), ("a reading", readings), ("a hold", held)):
        if is_on:  # they need the unsteered logits, which are not known where a steer acts inside the model
            mix.check_head_alone(what)
    for name, strength in strengths.items():
        if window_of(strength) != ALL:
            steers[name].check_head_alone("a window")
    if sites := sites_steered(lm.model):
        raise SteerError(
            f"the model is steered at {', '.join(sites)} already, by an enclosing `steered` block: name that steer "
            "here instead, or leave the block."
        )
    check_strengths({name: steer.card for name, steer in steers.items()}, strengths)
    for name, strength in strengths.items():
        window = window_of(strength)
        if window.earliest >= tokens:
            raise SteerError(
                f"{name}={strength:g} never acts: its window {window} holds none of the {tokens} tokens of a "
                "continuation; generate more tokens, or begin earlier."
            )


@dataclass(frozen=True, eq=False)
class Row:
    """What is to be written.

    A steer that acts inside the model acts on what is read, too: ``start`` then says so.

    Attributes:
        start: where it starts.
        noise: its random numbers (T,), one for each token; it has at most T tokens.
        steers: the steers that act on it, by name.
        strengths: the strength of each.
        sampling: how its tokens are drawn.
        limits: how far its steers may move each token.
        written: the tokens of its continuation that ``start`` already holds.
        readings: whether what is known of each of its tokens is kept (``readings``).
        is_thinking: whether its continuation begins inside the thinking part of a chat's answer.
        sums: of each steer whose reading is held, what was read of ``written`` (``hold``).
        stop: strings that end its continuation; who writes the row looks for them.
    """

    start: Start
    noise: Tensor
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Strengths = field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    limits: Limits = NO_LIMITS
    written: Sequence[int] = ()
    readings: bool = False
    is_thinking: bool = False
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        sites = {name for name, steer in self.steers.items() if steer.sites}
        sizes = {name: size for name, size in sizes_of(self.strengths).items() if size and name in sites}
        inside = ({name: self.steers[name] for name in sizes}, sizes) if sizes else None
        if inside != self.start.inside:
            object.__setattr__(self, "start", replace(self.start, inside=inside))

    @property
    def held(self) -> dict[str, Hold]:
        """The steers whose reading is held."""
        return {name: strength for name, strength in self.strengths.items() if isinstance(strength, Hold)}
