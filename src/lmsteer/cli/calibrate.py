"""The command ``calibrate``: the strengths at which a steer's text stays sound."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.data.minimal_pairs import Kept, read_minimal_pairs
from lmsteer.data.prompts import read_prompts
from lmsteer.data.starter import starter_requests
from lmsteer.errors import DataError
from lmsteer.evaluation.protocol import CALIBRATION, Protocol
from lmsteer.evaluation.scorers import checked_scores
from lmsteer.generation.config import Limits
from lmsteer.steer.lookup import find_folder, folder_for_update, read_saved
from lmsteer.util.progress import bars


@app.command()
def calibrate(
    steer: options.SteerName,
    max_perplexity_ratio: Annotated[
        float,
        typer.Option(
            callback=options.more_than(1), help="Largest safe perplexity, as a multiple of that of unsteered text."
        ),
    ] = 1.5,
    scorer: Annotated[
        str | None, typer.Option(help="What scores the texts, at every strength; see `lmsteer evaluate --help`.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Mean score of --scorer to reach; 'auto' becomes the strength that does.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS:SHARE",
            help="Minimal pairs (a data file, such as BLiMP's), and the least share of the accuracy on them, without a "
            "steer, that a safe strength keeps: blimp.jsonl:0.98.",
        ),
    ] = None,
    prompts: options.PromptsFile = None,
    chat: options.AsChat = False,
    system: options.System = None,
    num_samples: options.NumSamples = CALIBRATION.num_samples,
    max_new_tokens: options.MaxNewTokens = CALIBRATION.max_new_tokens,
    plausible: options.Plausible = options.DEFAULTS.limits.plausible,
    fresh: options.Fresh = options.DEFAULTS.limits.fresh,
    kl: options.KL = options.DEFAULTS.limits.kl,
    seed: options.Seed = options.DEFAULTS.seed,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the calibrated steer (default: its own; steers/NAME for one that ships)."
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Find the strengths at which a steer's text stays sound, and record them on its card.

    Afterwards --steer NAME=50% is half of the safe range, and NAME=auto is the strength that reaches the target, or
    the upper end of the safe range. A range that was found within limits (--plausible, --fresh, --kl) is shown and not
    recorded, since it does not hold without them.

    Example: lmsteer calibrate sentiment --scorer sentiment --target 0.9 --out steers/sentiment
    """
    protocol = Protocol(num_samples, max_new_tokens, seed=seed, limits=Limits(plausible, fresh, kl))
    folder = find_folder(steer)
    read_saved(folder)
    limits = protocol.limits.on
    if limits and out is not None:
        raise DataError(
            f"--out: a range within limits (--{next(iter(limits))}) is not recorded; leave one of them out."
        )
    destination = folder if limits else folder_for_update(folder, out)
    if target is not None and scorer is None:
        raise DataError("--target is the mean score of --scorer: give both.")
    kept = None if keep is None else _kept(keep)
    texts = None
    if prompts or chat or system is not None:
        own = read_prompts(prompts) if prompts else starter_requests()
        texts = options.answered(own, chat=chat, system=system)
    attribute = None
    if scorer is not None:
        scored_by = lmsteer.scorer(scorer)
        if target is not None and scored_by.is_probability and not 0 <= target <= 1:
            raise DataError(f"the scores of {scorer} lie between 0 and 1, so --target must, too; it is {target:g}.")
        attribute = partial(checked_scores, scored_by)
    loaded = lmsteer.load_steer(folder)
    safe_range = lmsteer.calibrate(
        lmsteer.load(model),
        loaded,
        texts,
        max_perplexity_ratio=max_perplexity_ratio,
        attribute=attribute,
        target=target,
        keep=kept,
        protocol=protocol,
        progress=bars(),
    )
    if not limits:
        lmsteer.save_steer(replace(loaded, card=safe_range.add_to(loaded.card)), destination)
    if as_json:
        print_json(safe_range.to_json())
    else:
        from lmsteer.cli.output.safe_range import print_safe_range

        print_safe_range(stdout, str(out or steer), safe_range)


def _kept(notation: str) -> Kept:
    """Read ``PAIRS:SHARE``."""
    file, colon, share = notation.rpartition(":")
    try:
        least = float(share)
    except ValueError:
        colon = ""
    if not colon or not file:
        raise DataError(f"cannot read --keep {notation!r}: write PAIRS:SHARE, like blimp.jsonl:0.98.")
    return Kept(read_minimal_pairs(file), least)
