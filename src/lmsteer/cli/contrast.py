"""The part of ``fit`` that needs no labelled texts: a description of the style stands in their place."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli.app import stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.data.contrast import Contrast
from lmsteer.data.text_files import read_text
from lmsteer.data.wishes import find_wish
from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.base import checked_scores
from lmsteer.evaluation.scorers.named import check_scorer
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.util.progress import bars
from lmsteer.util.run import resumable

Positive = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help="What texts of the positive end are like, in place of DATA; with --negative."),
]
Negative = Annotated[
    str | None, typer.Option(metavar="WORDS", help="What texts of the negative end are like; with --positive.")
]
Describe = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help="What texts are like, in place of DATA; the other end is its absence."),
]
Prompt = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A system prompt, in place of DATA; the other end is its absence."),
]
Wish = Annotated[
    str | None,
    typer.Option(
        metavar="WISH", help="A wish that ships (`lmsteer list --wishes`), or a TOML file of one, in place of DATA."
    ),
]
NUM_TEXTS = ContrastConfig.texts
NumTexts = Annotated[
    int,
    typer.Option(min=HELD_OUT_EVERY, help="With a description: number of texts that the model writes for each end."),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="With a description: another model that writes the texts, such as a larger one."
    ),
]
# With a smaller divergence than this, in nats a token, the model hardly follows the instructions.
_FAINT = 0.02
# With a smaller share than this of what they change, there is no map that does the same in all texts.
_LOST = 0.03
_WAYS = "--positive and --negative, --describe, --prompt, or --wish"
_DESCRIPTIONS = {"positive", "negative", "describe", "prompt", "wish"}
# The options of ``fit`` that a description leaves a meaning.
_OPTIONS = {
    *_DESCRIPTIONS,
    "name",
    "label",
    "out",
    "sites",
    "rank",
    "num_texts",
    "teacher",
    "seed",
    "resume",
    "model",
    "as_json",
}


@dataclass(frozen=True)
class Target:
    """What the steer is for and where it goes: options of ``fit`` under their names there."""

    name: str
    label: str
    out: Path | None
    model: str
    as_json: bool


@dataclass(frozen=True)
class Descriptions:
    """The ways to describe a style: options of ``fit`` under their names there."""

    positive: str | None
    negative: str | None
    describe: str | None
    prompt: Path | None
    wish: str | None


@dataclass(frozen=True)
class Described:
    """The description that stands in place of labelled texts.

    Attributes:
        contrast: the two ends in words.
        name: the name of the steer, if the description has one.
        label: what +1 means, likewise.
        scorer: name of the scorer that shows the style, likewise.
    """

    contrast: Contrast
    name: str = ""
    label: str = ""
    scorer: str = ""


def described(context: typer.Context, given: Descriptions) -> Described | None:
    """The description that stands in place of labelled texts; None if there is none.

    Args:
        context: the command's, which knows the options that were written out.
        given: the options that describe a style.

    Raises:
        DataError: there is more than one or half of one, it is empty, it is no wish, or options do not go with it.
    """
    chosen = _chosen_options(context)
    if not chosen & _DESCRIPTIONS:
        for name in ("num_texts", "teacher"):
            if name in chosen:
                raise DataError(f"--{name.replace('_', '-')} goes with a description: {_WAYS}.")
        return None
    if others := sorted(chosen - _OPTIONS):
        names = ", ".join("DATA" if name == "data" else f"--{name.replace('_', '-')}" for name in others)
        raise DataError(f"the model writes the texts itself from a description, so {names} does not go with one.")
    if (given.positive is None) != (given.negative is None):
        raise DataError("--positive and --negative describe the two ends: give both, or --describe for a single one.")
    if sum(each is not None for each in (given.positive, given.describe, given.prompt, given.wish)) > 1:
        raise DataError(f"a style is described in one way: {_WAYS}.")
    if given.wish is not None:
        wish = find_wish(given.wish)
        if wish.scorer:
            check_scorer(wish.scorer)
        return Described(wish.contrast, wish.name, wish.label, wish.scorer)
    if given.prompt is not None:
        return Described(Contrast.of_prompt(read_text(given.prompt)))
    positive = given.describe if given.positive is None else given.positive
    return Described(Contrast.of_descriptions(str(positive), given.negative))


def _chosen_options(context: typer.Context) -> set[str]:
    """The options and arguments that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def fit_described(described: Described, target: Target, *, config: ContrastConfig, teacher: str | None) -> None:
    """Fit a steer from a description, calibrate it on starter prompts and requests, and verify it."""
    scorer = lmsteer.scorer(described.scorer) if described.scorer else None

    from lmsteer.cli.output.contrast import print_contrast
    from lmsteer.cli.output.safe_range import print_safe_range
    from lmsteer.evaluation.safe_range import neutral_prompts
    from lmsteer.util.distributed import Processes

    if Processes.here().count > 1:
        raise DataError("a fit from a description is for one process: run it without torchrun or accelerate launch.")
    lm = lmsteer.load(target.model)
    fitted = lmsteer.fit_contrast(
        lm,
        described.contrast,
        name=target.name,
        label=target.label,
        teacher=lmsteer.load(teacher) if teacher else None,
        out=target.out,
        config=config,
        progress=bars(),
    )
    if fitted.imitation.between < _FAINT:
        warn("the model hardly follows the description, so the steer may do something else: say it in other words.")
    elif fitted.imitation.share < _LOST:
        warn("what the description changes is not the same from text to text, so the steer does little of it.")
    attribute = partial(checked_scores, scorer) if scorer else None
    command = ["lmsteer", "calibrate", str(fitted.folder), "--model", target.model]
    with resumable(f"The steer is kept in {fitted.folder}: find its safe range with `{shlex.join(command)}`."):
        # Half of the prompts of `lmsteer calibrate`: the range is a little rougher, and found in half the time.
        prompts = neutral_prompts(lm)[::2]
        safe_range = lmsteer.calibrate(lm, fitted.steer, prompts, attribute=attribute, progress=bars())
    steer = replace(fitted.steer, card=safe_range.add_to(fitted.steer.card))
    lmsteer.save_steer(steer, fitted.folder)
    verification = lmsteer.verify(lm, steer)
    if not verification.acts:
        warn(f"the steer does not pass its checks on {lm.name}: see what `lmsteer verify` says of it.")
    if target.as_json:
        print_json(
            {"folder": str(fitted.folder), "ranks": steer.ranks, "card": asdict(steer.card), "acts": verification.acts}
        )
        return
    print_contrast(stdout, fitted)
    print_safe_range(stdout, str(target.out or target.name), safe_range)
