"""The command ``list``: the steers that can be named, and the wishes that can be fitted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.known_steers import print_known_steers
from lmsteer.cli.output.wishes import print_wishes
from lmsteer.data.wishes import wishes
from lmsteer.steer.lookup import known_steers


@app.command(name="list")
def list_steers(
    of_wishes: Annotated[
        bool, typer.Option("--wishes", help="List the wishes of `lmsteer fit --wish` in place of steers.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the steers that can be named: those in steers/ of this folder, and those that ship.

    Example: lmsteer list
    Example: lmsteer list --wishes
    """
    if of_wishes:
        print_json([asdict(wish) for wish in wishes()]) if as_json else print_wishes(stdout, wishes())
        return
    steers = known_steers()
    if as_json:
        print_json([steer.to_json() for steer in steers])
    else:
        print_known_steers(stdout, steers)
