"""calibrate: which strengths of a steer are safe, and which strength reaches a target.

A strength is safe if the model still writes its language: if the perplexity of its text under the unsteered model is at
most a given multiple of the perplexity of unsteered text, and if the text is not degenerate (``is_degenerate``). What
the model knows of grammar may be a condition, too (``minimal_pairs``).

The limit of the safe strengths is searched for each sign. Strengths are doubled from 1 until one is not safe; if 1 is
not safe, they are halved until one is. Bisection then finds the limit between the two. The random numbers are the same
at every strength.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from lmsteer.data.chats import AnyPrompt, Chat, as_prompt
from lmsteer.data.minimal_pairs import Kept
from lmsteer.data.starter import starter_prompts, starter_requests
from lmsteer.errors import DataError
from lmsteer.evaluation.metrics import is_degenerate
from lmsteer.evaluation.minimal_pairs import PairReader
from lmsteer.evaluation.protocol import CALIBRATION, Protocol
from lmsteer.evaluation.scorers.base import ScoreFunction
from lmsteer.evaluation.trials import Trial, Trials
from lmsteer.generation.generate import Continuation, continue_from, encode_prompts
from lmsteer.generation.kept_prompts import can_be_kept, read_once
from lmsteer.generation.prefill import Prefill
from lmsteer.model.lm import LM
from lmsteer.steer.card import Calibration, Card
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

T = TypeVar("T")
# The largest and the smallest size of a strength that is tried.
MAX_STRENGTH, _MIN_STRENGTH = 64.0, 1 / 64
# Bisections between the last safe strength and the first unsafe one: it is known to an eighth of the step.
_BISECTIONS = 3
# The usual number of trials, for the progress bar.
_EXPECTED_TRIALS = 14
# The target is searched for at this many strengths of the safe range.
_TARGET_STEPS = 8


class RunPiece(typing.Protocol):
    """Runs a piece of the work of a calibration."""

    def __call__(self, piece: Callable[[], T], /) -> T:
        """Run it, and give its result."""
        ...


@dataclass(frozen=True)
class Pieces:
    """How a calibration is divided, for a server that does other work in between.

    Attributes:
        run: runs a piece: some prompts are read, or continued at one strength, or all minimal pairs are read at one.
        prompts: the largest number of prompts in a piece; None for all.
    """

    run: RunPiece = lambda piece: piece()
    prompts: int | None = None


WHOLE = Pieces()


@dataclass(frozen=True)
class SafeRange:
    """The result of a calibration.

    Attributes:
        low: the lowest safe strength, at most 0; -``MAX_STRENGTH`` if all that were tried are safe.
        high: the highest safe strength, at least 0.
        max_perplexity_ratio: the multiple of the unsteered perplexity up to which a strength is safe.
        target: the mean score that was asked for; None if none was.
        target_strength: the safe strength nearest to 0 that reaches the target; None if none does.
        trials: all strengths that were tried, in ascending order.
        kept: the least share of the accuracy on minimal pairs that was asked for; None if none was.
    """

    low: float
    high: float
    max_perplexity_ratio: float
    target: float | None
    target_strength: float | None
    trials: list[Trial]
    kept: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The safe range as a JSON object; accuracies and ``kept`` stand in it only where pairs were given."""
        record = asdict(self)
        if self.kept is None:
            del record["kept"]
            for trial in record["trials"]:
                del trial["accuracy"]
        return record

    def add_to(self, card: Card) -> Card:
        """The card with this safe range on it."""
        calibration = Calibration(
            max_perplexity_ratio=self.max_perplexity_ratio, curve=[trial.rounded() for trial in self.trials]
        )
        if self.kept is not None:
            calibration |= {"kept": self.kept}
        if self.target is not None:
            calibration |= {"target": self.target, "target_strength": self.target_strength}
        return replace(card, safe_range=(self.low, self.high), calibration=calibration)


def calibrate(
    lm: LM,
    steer: Steer,
    prompts: Sequence[AnyPrompt] | None = None,
    *,
    max_perplexity_ratio: float = 1.5,
    attribute: ScoreFunction | None = None,
    target: float | None = None,
    keep: Kept | None = None,
    protocol: Protocol = CALIBRATION,
    progress: Progress = no_progress,
    pieces: Pieces = WHOLE,
) -> SafeRange:
    """Find a steer's safe range, and the strength that reaches a target.

    Args:
        lm: the steer's base.
        steer: the steer.
        prompts: prompts to continue, and chats to answer; ``neutral_prompts`` by default.
        max_perplexity_ratio: the perplexity may rise to this multiple of that of unsteered text; above 1.
        attribute: gives each text a score, which the trials then have; needed for a target.
        target: the wanted mean score. One below the score of unsteered text is searched for at negative strengths.
        keep: minimal pairs, and the share of the accuracy on them that is left at every safe strength.
        protocol: how continuations are generated: one of 40 tokens for each prompt and strength by default.
        progress: reports the trials.
        pieces: how the work is divided.

    Raises:
        DataError: a ratio of 1 or less, a target without an attribute or the reverse, input that ``generate`` refuses,
            or minimal pairs that are too long, or of which none is right without a steer.
        WrongBaseError: the steer was fitted on another base.
        NotFiniteError: the unsteered model's logits are not finite numbers.
    """
    _check(max_perplexity_ratio, attribute, target)
    config = replace(protocol.generation_config(), score=True)
    prompts = neutral_prompts(lm) if prompts is None else prompts
    given = [as_prompt(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]
    ids = encode_prompts(lm, given, config.max_new_tokens)
    lm.check_base(Mix({"s": steer}, {"s": 0.0}))
    with progress("trying strengths", _EXPECTED_TRIALS, 0) as step:
        size = pieces.prompts or len(given)
        parts = [slice(first, first + size) for first in range(0, len(given), size)]
        prefills = [Prefill.of_ids(ids[part]) for part in parts]
        if can_be_kept(map(len, ids)) and not steer.sites:  # inside the model a prompt is read anew at each strength
            prefills = [pieces.run(partial(read_once, lm, prefill)) for prefill in prefills]

        def written(part: slice, prefill: Prefill, strength: float) -> list[Continuation]:
            strengths = [{"s": strength}]
            return [*continue_from(lm, given[part], prefill, {"s": steer}, strengths, config, first_prompt=part.start)]

        def write(strength: float) -> list[Continuation]:
            rows = [pieces.run(partial(written, *each, strength)) for each in zip(parts, prefills, strict=True)]
            return [row for own in rows for row in own]

        pair_reader = PairReader(lm, steer, keep.pairs) if keep else None

        def accuracy(strength: float) -> float:
            return pieces.run(partial(pair_reader.accuracy, strength)) if pair_reader else math.nan

        trials = Trials(write, accuracy, attribute, step)
        base = trials.at(0.0)
        if not base.accuracy:  # a share of nothing is kept by everything
            raise DataError("the model gets none of the minimal pairs right without a steer: give others, or more.")

        def is_safe(strength: float) -> bool:
            trial = trials.at(strength)
            is_sound = trial.perplexity <= max_perplexity_ratio * base.perplexity
            is_kept = keep is None or trial.accuracy >= keep.share * base.accuracy
            return is_sound and is_kept and not is_degenerate(trial.rep_3, base.rep_3)

        low, high = -_limit(lambda size: is_safe(-size)), _limit(is_safe)
        target_strength = None
        if target is not None:
            end = high if target > base.score else low
            side = [trials.at(end * k / _TARGET_STEPS) for k in range(_TARGET_STEPS + 1)]
            target_strength = _strength_at(side, target)
    kept = keep.share if keep else None
    return SafeRange(low, high, max_perplexity_ratio, target, target_strength, trials.in_order(), kept)


def neutral_prompts(lm: LM) -> list[AnyPrompt]:
    """Sixty prompts to calibrate on: neutral openings of texts; half of them requests if the model answers in chats."""
    openings = starter_prompts()
    if not lm.tokenizer.chat_template:
        return [*openings]
    half = len(openings) // 2
    return [*openings[:half], *map(Chat.of_user, starter_requests()[:half])]


def _check(max_perplexity_ratio: float, attribute: ScoreFunction | None, target: float | None) -> None:
    if not 1 < max_perplexity_ratio < math.inf:
        raise DataError(f"the maximum perplexity ratio must be a number above 1, not {max_perplexity_ratio:g}.")
    if target is not None and attribute is None:
        raise DataError("a target is a mean score: give the attribute that scores the texts, too.")
    if target is not None and not math.isfinite(target):
        raise DataError(f"the target must be a finite number, not {target:g}.")


def _limit(is_safe: Callable[[float], bool]) -> float:
    """The largest safe size, to an eighth; ``MAX_STRENGTH`` if all are safe, 0 if not even ``_MIN_STRENGTH`` is."""
    good, bad = 0.0, 1.0
    while bad <= MAX_STRENGTH and is_safe(bad):
        good, bad = bad, 2 * bad
    while not good and bad > _MIN_STRENGTH:  # a steer whose unit of strength is large
        good, bad = (bad / 2, bad) if is_safe(bad / 2) else (0.0, bad / 2)
    if not good or bad > MAX_STRENGTH:
        return good
    for _ in range(_BISECTIONS):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if is_safe(middle) else (good, middle)
    return good


def _strength_at(trials: Sequence[Trial], target: float) -> float | None:
    """The strength at which scores first cross the target, by linear interpolation between two trials.

    The trials start at strength 0 and go outwards.
    """
    if target == trials[0].score:
        return trials[0].strength
    up = target > trials[0].score
    for before, after in pairwise(trials):
        if after.score == target or (after.score > target) == up:
            share = (target - before.score) / (after.score - before.score)
            return round(before.strength + share * (after.strength - before.strength), 3)
    return None
