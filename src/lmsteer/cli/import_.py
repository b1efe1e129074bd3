"""The command ``import``: steers of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.errors import DataError
from lmsteer.steer.lookup import STEERS_FOLDER


@app.command(name="import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="Checkpoint (.pt) of the published LM-Steer code, or folder of a PEFT LoRA.")
    ],
    name: Annotated[str, typer.Option(help="Name of the style dimension.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the steer (default: steers/NAME); several get -0, -1, .. at its end."
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
) -> None:
    """Import a published checkpoint, or a LoRA on the head as the nearest steer; no code in them is run.

    Example: lmsteer import checkpoint.pt --name detoxification --model gpt2-large
    """
    if not source.exists():
        raise DataError(f"no such file or folder: {source}.")
    folder = (out or STEERS_FOLDER / name).absolute()
    lm = lmsteer.load(model)
    if source.is_dir():
        from lmsteer.export.peft import import_lora

        nearest = import_lora(lm, source, name)
        steers = [nearest.steer]
        stdout.print(f"{nearest.residual:.1%} of the LoRA's change cannot be expressed by a steer and is lost.")
    else:
        from lmsteer.steer.published_checkpoint import import_published

        vocabulary, hidden_size = lm.head.weight.shape
        steers = import_published(source, lm.card(name), hidden_size, vocabulary)
    for number, steer in enumerate(steers):
        target = folder if len(steers) == 1 else folder.with_name(f"{folder.name}-{number}")
        stdout.print(f"Steer {steer.card.name!r} saved to {lmsteer.save_steer(steer, target)}.", markup=False)
