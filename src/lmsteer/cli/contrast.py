"""The part of ``fit`` that needs no labelled texts: a description of the style stands in their place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli.app import stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_prompts
from lmsteer.data.text_files import read_text
from lmsteer.errors import DataError
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.util.progress import bars

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
NUM_TEXTS = ContrastConfig.texts
NumTexts = Annotated[
    int,
    typer.Option(min=HELD_OUT_EVERY, help="With a description: number of texts that the model writes for each end."),
]
# With a smaller divergence than this, in nats a token, the model hardly follows the instructions.
_FAINT = 0.02
_DESCRIPTIONS = {"positive", "negative", "describe", "prompt"}
# The options of ``fit`` that a description leaves a meaning.
_OPTIONS = {*_DESCRIPTIONS, "name", "label", "out", "rank", "num_texts", "seed", "model", "as_json"}


@dataclass(frozen=True)
class Target:
    """What the steer is for and where it goes: options of ``fit`` under their names there."""

    name: str
    label: str
    out: Path | None
    model: str
    as_json: bool


def described(
    context: typer.Context, positive: str | None, negative: str | None, describe: str | None, prompt: Path | None
) -> Contrast | None:
    """The description that stands in place of labelled texts; None if there is none.

    Args:
        context: the command's, which knows the options that were written out.
        positive: the option of that name; the others likewise.
        negative: an option.
        describe: an option.
        prompt: an option.

    Raises:
        DataError: there is more than one or half of one, it is empty, or options do not go with it.
    """
    chosen = _chosen_options(context)
    if not chosen & _DESCRIPTIONS:
        if "num_texts" in chosen:
            raise DataError("--num-texts goes with a description: --positive and --negative, --describe, or --prompt.")
        return None
    if others := sorted(chosen - _OPTIONS):
        names = ", ".join("DATA" if name == "data" else f"--{name.replace('_', '-')}" for name in others)
        raise DataError(f"the model writes the texts itself from a description, so {names} does not go with one.")
    if (positive is None) != (negative is None):
        raise DataError("--positive and --negative describe the two ends: give both, or --describe for a single one.")
    if sum(each is not None for each in (positive, describe, prompt)) > 1:
        raise DataError("--positive, --describe and --prompt are three ways to describe a style: give one of them.")
    if prompt is not None:
        return Contrast.of_prompt(read_text(prompt))
    return Contrast.of_descriptions(str(describe if positive is None else positive), negative)


def _chosen_options(context: typer.Context) -> set[str]:
    """The options and arguments that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def fit_described(contrast: Contrast, target: Target, *, num_texts: int, rank: int | None, seed: int) -> None:
    """Fit a steer from a description, and calibrate it on the starter prompts."""
    from lmsteer.cli.output.contrast import print_contrast
    from lmsteer.cli.output.safe_range import print_safe_range

    lm = lmsteer.load(target.model)
    config = ContrastConfig(texts=num_texts, rank=rank, seed=seed)
    fitted = lmsteer.fit_contrast(
        lm, contrast, name=target.name, label=target.label, out=target.out, config=config, progress=bars()
    )
    if fitted.divergence < _FAINT:
        warn("the model hardly follows the description, so the steer may do something else: say it in other words.")
    safe_range = lmsteer.calibrate(lm, fitted.steer, starter_prompts(), progress=bars())
    steer = replace(fitted.steer, card=safe_range.add_to(fitted.steer.card))
    lmsteer.save_steer(steer, fitted.folder)
    if target.as_json:
        print_json({"folder": str(fitted.folder), "rank": steer.rank, "card": asdict(steer.card)})
        return
    print_contrast(stdout, fitted)
    print_safe_range(stdout, str(target.out or target.name), safe_range)
