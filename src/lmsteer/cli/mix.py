"""The command ``mix``: one steer from several, and how they interfere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.mix import print_mix
from lmsteer.cli.steering import parse_steering
from lmsteer.data.prompts import read_prompts
from lmsteer.data.starter import starter_prompts, starter_requests
from lmsteer.errors import DataError
from lmsteer.steer.lookup import check_target, find_card
from lmsteer.util.progress import bars

Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Save the mix as one steer to this folder, at strength 1.")
]
Label = Annotated[str, typer.Option(help="What strength +1 of the new steer means, in words (default: the mix).")]
OrthogonalTo = Annotated[
    list[str] | None,
    typer.Option(metavar="STEER", help="Steer whose dimension the mix must not change. Repeatable."),
]
Decorrelate = Annotated[
    bool,
    typer.Option("--decorrelate", help="Choose strengths at which each steer has the effect it has alone."),
]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of the new steer (default: the sum of the ranks).")]
Evaluate = Annotated[
    bool,
    typer.Option("--evaluate", help="Generate text under each steer alone and under the mix, and compare."),
]


@app.command()
def mix(
    steer: options.SteerStrengths,
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="Name of the new steer (default: that of its folder).")] = None,
    label: Label = "",
    orthogonal_to: OrthogonalTo = None,
    decorrelate: Decorrelate = False,
    rank: Rank = None,
    evaluate: Evaluate = False,
    prompts: options.PromptsFile = None,
    chat: options.AsChat = False,
    system: options.System = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Make one steer from several, and see how they interfere.

    Example: lmsteer mix sentiment=3 politeness=2 --decorrelate --out steers/kind
    """
    steering = parse_steering(steer, warned=False)
    strengths = steering.constant("a mix")
    if out is None and (rank is not None or name or label):
        raise DataError("--rank, --name and --label describe the steer of --out: give both.")
    if (prompts or chat) and not evaluate:
        raise DataError(f"{'--prompts are' if prompts else '--chat is'} for --evaluate: give both.")
    if evaluate and len(strengths) < 2:
        raise DataError("--evaluate compares two steers or more.")
    for other in orthogonal_to or ():
        find_card(other)
    if out is not None:
        check_target(out)
    neutral = starter_requests if chat else starter_prompts
    texts = options.answered(read_prompts(prompts) if prompts else neutral(), chat=chat, system=system)

    from lmsteer.evaluation.mix_report import mix_report
    from lmsteer.generation.unconditional import fisher_factors

    mixed = lmsteer.Mix(steering.steers(), strengths)
    others = {other: lmsteer.find_steer(other) for other in orthogonal_to or ()}
    lm = lmsteer.load(model)
    lm.check_base(mixed)
    lm.check_base(lmsteer.Mix(others, dict.fromkeys(others, 1.0)))
    if rank is not None:
        mixed.check_head_alone("--rank")
    if rank is not None and rank > lm.hidden_size:
        raise DataError(f"--rank must be at most the model's hidden size, {lm.hidden_size}, not {rank}.")
    fisher = fisher_factors(lm)
    if others:
        steers = {key: lmsteer.orthogonalize(one, others, fisher) for key, one in mixed.steers.items()}
        mixed = lmsteer.Mix(steers, strengths)
    if decorrelate:
        mixed = lmsteer.Mix(mixed.steers, lmsteer.decorrelate_strengths(mixed, fisher))
    measured = lmsteer.interference(lm, mixed, texts, progress=bars()) if evaluate else None
    report = mix_report(mixed, fisher, measured)
    if out is not None:
        merged = lmsteer.merge(mixed, name or out.name, label)
        lmsteer.save_steer(merged if rank is None else merged.truncated(rank), out)
        note(f"Steer {merged.card.name!r} saved to {out}.")
    if as_json:
        print_json(report.to_json())
    else:
        print_mix(stdout, report)
