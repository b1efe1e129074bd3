"""The command ``push``: a steer is shared on the Hub."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.export.hub import check_push


@app.command()
def push(
    steer: options.SteerName,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository of the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit (default: the steer's name).")] = "",
    license: Annotated[
        str, typer.Option(help="Licence of the steer, as the Hub names it, such as apache-2.0 (default: none stated).")
    ] = "",
    base_model: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="Hub id of the steer's base (default: as its card names it).")
    ] = "",
    as_json: options.AsJson = False,
) -> None:
    """Share a steer on the Hub, with a model card that says what it does; log in first with `hf auth login`.

    Example: lmsteer push steers/kind my-name/kind --license apache-2.0
    """
    check_push(steer, repository, base_model)
    pushed = lmsteer.push_steer(
        steer, repository, private=private, message=message, license_id=license, base_model=base_model
    )
    if as_json:
        print_json(asdict(pushed))
    else:
        stdout.print(f"{pushed.id} is at {pushed.url}", markup=False, highlight=False, soft_wrap=True)
